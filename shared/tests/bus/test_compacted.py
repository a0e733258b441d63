"""A compacted log gives back what it was made of, and whoever reads a log does not notice that it is one."""

import asyncio
import base64
import hashlib
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_shared import subjects
from millrace_shared.bus import compacted, log_reader
from millrace_shared.bus.compacted import MARK, Entry, expand, heading_of, is_compacted, pack
from millrace_shared.bus.compacted_dictionary import DICTIONARY
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import (
    PAGE_MESSAGES,
    Stored,
    read_first_of_log,
    read_last_of_log,
    read_last_of_logs,
    read_log,
    transitions_of,
    unfold,
)
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import decode_transition
from millrace_shared.errors import MessageInvalid, ValueTooLarge
from millrace_shared.ids import new_id
from millrace_shared.testing.logs import encoded, simple_log

EXECUTION = new_id()
SUBJECT = subjects.log(EXECUTION)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    sequences = sorted(draw(st.sets(st.integers(1, 2**53), min_size=1, max_size=12)))
    return [Entry(sequence, draw(st.binary(max_size=40))) for sequence in sequences]


@given(log=logs(), at=st.floats(0, 4e9))
def test_what_is_packed_comes_back_byte_by_byte(log: list[Entry], at: float) -> None:
    packed = pack(log, at)
    assert is_compacted(packed)
    assert expand(packed) == log
    heading = heading_of(packed)
    assert (heading.count, heading.last, heading.at) == (len(log), log[-1].sequence, at)


@given(log=logs(), data=st.data())
def test_damage_is_refused_and_never_read_as_something_else(log: list[Entry], data: st.DataObject) -> None:
    packed = pack(log, 1.0)
    body = packed.index(b"\n", len(MARK)) + 1
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(MessageInvalid):
        expand(packed[:cut])
    place = data.draw(st.integers(body, len(packed) - 1))
    with pytest.raises(MessageInvalid):
        expand(packed[:place] + bytes([packed[place] ^ 0xFF]) + packed[place + 1 :])
    with pytest.raises(MessageInvalid):
        expand(packed + b"x")
    with pytest.raises(MessageInvalid):
        decode_transition(packed)


@pytest.mark.parametrize(
    "entries", [[], [Entry(5, b"a")], [Entry(8, b"a"), Entry(3, b"b")], [Entry(1, b"a"), Entry(2, b"b")]]
)
def test_a_body_that_is_not_what_its_heading_says_is_refused(entries: list[Entry]) -> None:
    heading = msgspec.json.encode({"count": 2, "last": 3, "at": 1.0})
    with pytest.raises(MessageInvalid, match="heading"):
        expand(MARK + heading + b"\n" + zlib.compress(msgspec.msgpack.encode(entries)))


def test_the_dictionary_never_changes_and_what_was_packed_can_always_be_read() -> None:
    assert hashlib.sha256(DICTIONARY).hexdigest() == "a821e749b0b7d9cae72c795cad434321a7a3b644f86e3000f2f4449476d8d1e3"
    packed = "bWlsbHJhY2UgbG9nIDEKeyJjb3VudCI6MiwibGFzdCI6OSwiYXQiOjEuMH0KeLs4KzKomzSJ8Qhj4iTOI9K4A6QWAPPZDDM="
    assert expand(base64.b64decode(packed)) == [Entry(1, b"a"), Entry(9, b'{"v":2,"execution_id":"01"}')]


def test_a_short_log_takes_a_fifth_of_its_bytes() -> None:
    log = [Entry(number, payload) for number, payload in enumerate(encoded(simple_log(EXECUTION)), 1)]
    assert 5 * len(pack(log, 1.0)) < sum(len(one.payload) for one in log)


def test_a_bomb_is_refused_and_a_log_that_would_be_one_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = pack([Entry(1, bytes(200_000))], 1.0)
    assert len(bomb) < 1_000
    monkeypatch.setattr(compacted, "UNPACKED_BYTES_MAX", 100_000)
    with pytest.raises(MessageInvalid, match="more than 100000 bytes"):
        expand(bomb)
    with pytest.raises(ValueTooLarge):
        pack([Entry(1, bytes(200_000))], 1.0)


@given(log=logs(), start=st.integers(1, 2**53), count=st.integers(1, 14), data=st.data())
def test_at_any_point_of_compaction_each_transition_is_read_once_in_order_from_anywhere(
    log: list[Entry], start: int, count: int, data: st.DataObject
) -> None:
    """A purge may have removed any part of what the compacted log repeats, in any order."""
    own = [Stored(SUBJECT, one.sequence, one.payload) for one in log]
    whole = Stored(SUBJECT, log[-1].sequence + data.draw(st.integers(1, 1000)), pack(log, 1.0))
    left = [one for one in own if data.draw(st.booleans())]
    for stored in (own, [*left, whole]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(log_reader, "_batch", _server_of(stored, count))
            assert asyncio.run(_read(start)) == [one for one in own if one.sequence >= start]
            assert asyncio.run(read_first_of_log(Connection(), EXECUTION)) == own[0]
            assert asyncio.run(read_last_of_log(Connection(), EXECUTION)) == own[-1]


def _server_of(stored: list[Stored], count: int) -> object:
    """Answers reads of one subject, at most `count` messages at once."""

    async def batch(_: object, _stream: str, request: dict[str, int]) -> tuple[list[Stored], int]:
        if "last_by_subj" in request:
            return stored[-1:], 0
        found = [one for one in stored if one.sequence >= request["seq"]]
        page = found[: count if "batch" in request else 1]
        return page, len(found) - len(page)

    return batch


async def _read(start: int) -> list[Stored]:
    return [one async for one in transitions_of(Connection(), EXECUTION, start)]


def test_what_cannot_be_unpacked_stays_as_it_is_so_that_decoding_it_tells() -> None:
    damaged = Stored(SUBJECT, 7, pack([Entry(1, b"a")], 1.0)[:-1])
    assert unfold(damaged) == [damaged]


async def test_a_server_s_log_reads_the_same_before_during_and_after(product_bus: Connection) -> None:
    publisher = await Publisher(product_bus).start()
    other = subjects.log(new_id())
    for payload in encoded(simple_log(EXECUTION, steps=4)):
        await publisher.publish(Outgoing(SUBJECT, payload))
        await publisher.publish(Outgoing(other, b"{}"))
    before = await read_log(product_bus, EXECUTION)
    assert [one.sequence for one in before] == [1, 3, 5, 7, 9]
    packed = pack([Entry(one.sequence, one.payload) for one in before], 1.0)
    ack = await publisher.publish(Outgoing(SUBJECT, packed, before[-1].sequence))

    async def assert_same() -> None:
        assert await read_log(product_bus, EXECUTION) == before
        for start in range(1, ack.seq + 2):
            read = [one async for one in transitions_of(product_bus, EXECUTION, start)]
            assert read == [one for one in before if one.sequence >= start]
        assert await read_first_of_log(product_bus, EXECUTION) == before[0]
        assert await read_last_of_log(product_bus, EXECUTION) == before[-1]
        assert before[-1] in await read_last_of_logs(product_bus, [new_id(), EXECUTION])

    await assert_same()
    purged = await product_bus.jetstream_api("STREAM.PURGE.EVENTS", {"filter": SUBJECT, "seq": ack.seq})
    assert purged["purged"] == len(before)
    await assert_same()
    assert await read_first_of_log(product_bus, new_id()) is None
    assert await read_last_of_log(product_bus, new_id()) is None


@pytest.mark.parametrize("large", [False, True])
async def test_a_log_of_many_pages_reads_the_same_though_its_beginning_is_gone(
    product_bus: Connection, *, large: bool
) -> None:
    publisher = await Publisher(product_bus).start()
    payload = b"x" * (1024 * 1024 if large else 10)
    for _ in range(6 if large else 2 * PAGE_MESSAGES + 1):
        await publisher.publish(Outgoing(SUBJECT, payload))
    before = await read_log(product_bus, EXECUTION)
    packed = pack([Entry(one.sequence, one.payload) for one in before], 1.0)
    await publisher.publish(Outgoing(SUBJECT, packed, before[-1].sequence))
    assert await read_log(product_bus, EXECUTION) == before
    await product_bus.jetstream_api("STREAM.PURGE.EVENTS", {"filter": SUBJECT, "seq": 3})
    assert await read_log(product_bus, EXECUTION) == before
    assert [one async for one in transitions_of(product_bus, EXECUTION, 2)] == before[1:]
    assert await read_first_of_log(product_bus, EXECUTION) == before[0]
