"""What triggers say about events: filters, what tells events apart, and mappings, with every mistake and its place."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_api.domain.trigger_alerts import Alert, decode_notification, identity_of, occurrence_of, takes
from millrace_api.domain.trigger_reading import spec_of
from millrace_api.domain.trigger_rendering import render
from millrace_api.domain.trigger_rules import Occurrence, read_rules
from millrace_api.domain.triggers import Start, Trigger, TriggerSpec, plan
from millrace_api.errors import EventUnusable, Refused
from millrace_shared.expressions.evaluators import LocalEvaluator

EVALUATE = LocalEvaluator().evaluate
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def trigger(kind: Any = "event", **fields: Any) -> Trigger:
    spec = TriggerSpec(name="t", kind=kind, workflow="w", **fields)
    return Trigger("id-1", "default", spec, LONG_AGO, LONG_AGO, "me", LONG_AGO)


def start(event: Any, identity: str | None = "event/7", *, by_hand: bool = False, **fields: Any) -> Start | None:
    chosen = trigger(**fields)
    spec = chosen.spec
    rules, mistakes = read_rules(spec.kind, spec.filter, spec.dedupe, spec.input)
    assert not mistakes
    return plan(chosen, rules, Occurrence(event, {"subject": "s"}, identity, by_hand), EVALUATE)


def test_without_rules_everything_starts_something():
    found = start({"a": 1})
    assert found is not None
    assert (found.launch.execution_name, found.launch.input, found.launch.workflow) == ("id-1/event/7", {}, "w")


@pytest.mark.parametrize(("event", "starts"), [({"n": 2}, True), ({"n": 1}, False)])
def test_a_filter_says_what_starts_something(event: Any, starts: bool):
    assert (start(event, filter="event.n > 1") is not None) is starts


@pytest.mark.parametrize("event", [{}, {"n": "text"}, None, [1], 3])
def test_a_filter_that_has_no_value_makes_the_event_unusable(event: Any):
    with pytest.raises(EventUnusable, match="its filter fails"):
        start(event, filter="event.n > 1")


def test_inputs_keep_their_types_and_see_event_and_trigger():
    mapping = {
        "whole": "${{ event }}",
        "text": "${{ trigger.name }}: ${{ event.a[0] }}",
        "sum": "${{ event.a[0] + 1 }}",
    }
    found = start({"a": [1, 2]}, input=mapping)
    assert found is not None
    assert found.launch.input == {"whole": {"a": [1, 2]}, "text": "t: 1", "sum": 2}
    with pytest.raises(EventUnusable, match="its input fails"):
        start({}, input=mapping)


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ({"id": "o-1"}, "id-1/id/o-1"),
        ({"id": 7}, "id-1/id/7"),
        ({"id": True}, "id-1/id/true"),
    ],
)
def test_dedupe_tells_events_apart(event: Any, name: str):
    found = start(event, dedupe="event.id")
    assert found is not None
    assert found.launch.execution_name == name


def test_who_tries_a_trigger_out_starts_something_each_time():
    found = start({"id": "o-1"}, None, dedupe="event.id", by_hand=True)
    assert found is not None
    assert found.launch.execution_name is None


@pytest.mark.parametrize("value", [None, ""])
def test_dedupe_without_a_value_makes_the_event_unusable(value: Any):
    with pytest.raises(EventUnusable, match="gives nothing"):
        start({"id": value}, dedupe="event.id")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_names_are_short_and_the_same_for_the_same_value_alone(one: Any, other: Any):
    if one in (None, "") or other in (None, ""):
        return
    names = []
    for value in (one, other):
        found = start({"id": value}, dedupe="event.id")
        assert found is not None
        assert found.launch.execution_name is not None
        assert len(found.launch.execution_name) <= 200
        names.append(found.launch.execution_name)
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)  # Python has False == 0
    assert (names[0] == names[1]) or not same
    if names[0] == names[1] and isinstance(one, str) and isinstance(other, str):
        assert one == other


@pytest.mark.parametrize(
    ("kind", "fields", "loc", "words"),
    [
        ("event", {"filter_": "event.a +"}, ["filter"], "not an expression"),
        ("event", {"filter_": "evnt.a"}, ["filter"], "a trigger sees `event` and `trigger`"),
        ("event", {"filter_": "${{ event.a }}"}, ["filter"], "write it without"),
        ("event", {"dedupe": "inputs.a"}, ["dedupe"], "cannot be read here"),
        ("event", {"dedupe": "trigger.headers"}, ["dedupe"], "it has id"),
        ("webhook", {"mapping": {"a": ["${{ trigger.subject }}"]}}, ["input", "a", 0], 'no "subject"'),
        ("cron", {"mapping": {"a": "${{ event }}"}}, ["input", "a"], "has no event"),
        ("alert", {"mapping": {"a": {"b": "${{ trigger }}"}}}, ["input", "a", "b"], "`trigger` has no"),
    ],
)
def test_mistakes_are_told_with_their_place(kind: str, fields: dict[str, Any], loc: list[Any], words: str):
    given_fields: dict[str, Any] = {"filter_": None, "dedupe": None, "mapping": None, **fields}
    _, (mistake,) = read_rules(kind, **given_fields)
    assert mistake["loc"] == ["body", *loc]
    assert words in mistake["msg"]


def alert(**fields: Any) -> Alert:
    return Alert(
        **{"status": "firing", "labels": {"a": "1", "b": "2"}, "fingerprint": "f", "starts_at": "now"} | fields
    )


def test_a_trigger_is_shown_although_its_time_zone_is_known_no_more():
    forgotten = trigger("cron", cron="0 9 * * *", timezone="Mars/Olympus")
    assert render(forgotten, 0.0)["next_fire_at"] is None
    assert render(trigger("cron", cron="0 9 * * *"), 0.0)["next_fire_at"] == "1970-01-01T09:00:00Z"


@pytest.mark.parametrize("changes", [{"name": "orders\n"}, {"event": "orders\n"}, {"event": "a.b"}, {"event": "*"}])
def test_names_are_one_token_of_a_subject_to_the_last_character(changes: dict[str, Any]):
    with pytest.raises(Refused) as refused:
        spec_of({"name": "t", "kind": "event", "workflow": "w", **changes})
    assert refused.value.code == "trigger_invalid"


def test_an_alert_must_have_the_labels_and_the_status_that_a_trigger_wants():
    assert takes(trigger("alert"), alert())
    assert takes(trigger("alert", match={"a": "1"}), alert())
    assert not takes(trigger("alert", match={"a": "1", "c": "3"}), alert())
    assert not takes(trigger("alert", match={"a": "2"}), alert())
    assert not takes(trigger("alert"), alert(status="resolved"))
    assert takes(trigger("alert", statuses=("resolved",)), alert(status="resolved"))


def test_alerts_are_told_apart_by_fingerprint_start_and_status():
    changes: list[dict[str, Any]] = [{}, {"fingerprint": "g"}, {"starts_at": "later"}, {"status": "resolved"}]
    changes += [
        {"fingerprint": "f/now", "starts_at": ""},
        {"fingerprint": "x" * 500},
        {"fingerprint": "", "labels": {}},
    ]
    identities = [identity_of(alert(**change)) for change in changes]
    assert len(set(identities)) == len(identities)
    assert all(len(identity) < 160 for identity in identities)
    assert identity_of(alert(annotations={"x": "y"}, ends_at="never")) == identities[0]


def test_a_trigger_sees_an_alert_as_alertmanager_names_it():
    body = (
        b'{"version": "4", "receiver": "r", "groupLabels": {"g": "1"}, "externalURL": "http://am", "new": 1,'
        b'"alerts": [{"status": "firing", "labels": {"a": "1"}, "startsAt": "s",'
        b'"generatorURL": "http://p", "fingerprint": "f"}]}'
    )
    notification = decode_notification(body)
    seen = occurrence_of(notification.alerts[0], notification)
    assert seen.event["startsAt"] == "s"
    assert (seen.event["generatorURL"], seen.event["externalURL"]) == ("http://p", "http://am")
    assert (seen.event["groupLabels"], seen.facts["receiver"]) == ({"g": "1"}, "r")
    with pytest.raises(Refused):
        decode_notification(body.replace(b'"4"', b'"5"'))
