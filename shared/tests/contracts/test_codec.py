"""Every message survives the bus, and whatever else comes is `MessageInvalid` and no other error."""

import contextlib
import string
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_shared.codec import (
    decode_fact,
    decode_inbox,
    decode_request,
    decode_transition,
    decode_work,
    encode,
)
from millrace_shared.errors import MessageInvalid, UpgradeNeeded
from millrace_shared.execution.view import ExecutionView
from millrace_shared.messages import LOG_VERSION, Event, Fact, InboxMessage, RunStep, StartRequest, Transition
from millrace_shared.testing.logs import encoded, random_log

DECODERS = (decode_inbox, decode_request, decode_transition, decode_work, decode_fact)
RECORDED = Path(__file__).parents[1] / "data"

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
DECIMALS = st.decimals(0, 10**9, places=9)


st.register_type_strategy(Decimal, DECIMALS)
st.register_type_strategy(float, st.floats(0, 4e9))
st.register_type_strategy(msgspec.Raw, JSON.map(lambda value: msgspec.Raw(msgspec.json.encode(value))))


def structs(kind: type) -> st.SearchStrategy[Any]:
    """Any value of a struct, field by field: hypothesis does not know msgspec's types."""
    fields = {field.name: by_type(field.type) for field in msgspec.structs.fields(kind)}
    return st.builds(kind, **fields)


def by_type(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type."""
    if kind is Any:
        return JSON
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return structs(kind)
    arguments = get_args(kind)
    origin = getattr(kind, "__origin__", None)
    if origin is dict:
        return st.dictionaries(by_type(arguments[0]), by_type(arguments[1]), max_size=3)
    if origin is tuple:
        return st.lists(by_type(arguments[0]), max_size=4).map(tuple)
    if arguments and not all(isinstance(one, str) for one in arguments):
        return st.one_of(*map(by_type, arguments))
    return st.from_type(kind)


@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize(
    ("kind", "decode"),
    [
        *((kind, decode_inbox) for kind in get_args(InboxMessage)),
        (StartRequest, decode_request),
        (RunStep, decode_work),
        *((kind, decode_fact) for kind in get_args(Fact)),
    ],
    ids=lambda value: value.__name__,
)
@given(data=st.data())
def test_every_message_survives(kind: type, decode: Callable[[bytes], Any], data: st.DataObject):
    message = data.draw(structs(kind))
    sent = encode(message)
    received = decode(sent)
    assert received == message
    assert encode(received) == sent


@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("kind", get_args(Event), ids=lambda value: value.__name__)
@given(data=st.data())
def test_every_event_survives_in_its_log(kind: type, data: st.DataObject):
    transition = Transition(LOG_VERSION, "id", 1, 1.5, (data.draw(structs(kind)),))
    assert decode_transition(encode(transition)) == transition


def test_a_log_message_is_read_whatever_the_order_and_spacing_of_its_fields():
    """The fast path knows what we write; what anybody else wrote goes the long way to the same end."""
    (transition, *_) = random_log(Random(1), finished=True)
    fields = msgspec.json.decode(encode(transition))
    assert decode_transition(msgspec.json.encode(dict(reversed(fields.items())))) == transition
    assert decode_transition(msgspec.json.format(encode(transition), indent=2)) == transition


def test_what_is_at_its_default_is_left_out():
    request = StartRequest("id", "default", "w", "w", 1, "hash", 1.0)
    required = {"execution_id", "workspace", "workflow_id", "workflow_name", "workflow_version", "definition"}
    assert set(msgspec.json.decode(encode(request))) == {"type", "requested_at"} | required


def test_unknown_fields_of_a_newer_service_are_passed_over():
    message = b'{"type":"cancel","execution_id":"x","reason":"why","shade":{"of":"blue"}}'
    assert decode_inbox(message).execution_id == "x"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | JSON.map(msgspec.json.encode) | st.text(string.printable).map(str.encode))
def test_poison_is_never_another_error(data: bytes):
    for decode in DECODERS:
        with pytest.raises(MessageInvalid):
            decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"v":1,"events":' + b"[" * 100_000,
        b'{ "v":1,"events":' + b"[" * 100_000,
        b'{"type":"start"',
        b'{"type":"\xff"}',
        b'\xff{"v":1}',
        b'{"type":"nonsense","execution_id":"x"}',
        b'{"type":"step_result","execution_id":"x","step":"s","attempt":"one","started_at":1,"finished_at":1}',
        b'{"type":"timer","execution_id":"x","kind":"nap"}',
        b'{"v":true,"execution_id":"x","version":1,"at":1,"events":[]}',
        b'{"v":1,"execution_id":"x","version":1,"at":1e999,"events":[]}',
        b'{"v":1,"execution_id":"x","version":1,"at":1,"events":[{"type":"execution.finished","status":"lost"}]}',
    ],
    ids=range(14),
)
def test_poison_that_is_nearly_right(data: bytes):
    for decode in DECODERS:
        with pytest.raises(MessageInvalid):
            decode(data)


@pytest.mark.parametrize("version", [LOG_VERSION + 1, 10**30])
def test_a_log_message_of_a_later_version_is_not_poison_but_asks_for_an_upgrade(version: int):
    with pytest.raises(UpgradeNeeded, match="is newer than"):
        decode_transition(b'{"v":%d,"shape":"unknown"}' % version)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.data())
def test_a_message_that_was_damaged_is_read_or_refused(seed: int, data: st.DataObject):
    message = encoded(random_log(Random(seed)))[0]
    position = data.draw(st.integers(0, len(message) - 1))
    damaged = message[:position] + data.draw(st.binary(max_size=3)) + message[position + 1 :]
    with contextlib.suppress(MessageInvalid, UpgradeNeeded):
        assert isinstance(decode_transition(damaged), Transition)


def recorded(version: int) -> list[bytes]:
    return (RECORDED / f"log-v{version}.jsonl").read_bytes().splitlines()


@pytest.mark.parametrize("version", range(1, LOG_VERSION + 1))
def test_logs_that_earlier_versions_wrote_are_still_read_and_folded(version: int):
    """Recorded by the version that wrote them. A new version adds a file of its own, and never changes these."""
    views: dict[str, ExecutionView] = {}
    kinds: set[str] = set()
    for line in recorded(version):
        transition = decode_transition(line)
        views.setdefault(transition.execution_id, ExecutionView()).apply(transition)
        kinds |= {event["type"] for event in msgspec.json.decode(line)["events"]}
    statuses = {view.execution["status"] for view in views.values() if view.execution}
    assert statuses == {"completed", "failed", "cancelled", "timeout", "running"}
    assert len(kinds) == {1: 13, 2: 22}[version]


def test_the_current_version_writes_what_was_recorded():
    """When this fails, the shape of the log has moved: raise LOG_VERSION, add an upcaster and a recording."""
    for line in recorded(LOG_VERSION):
        assert encode(decode_transition(line)) == line
