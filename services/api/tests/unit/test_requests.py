from datetime import UTC, datetime

import msgspec
import pytest

from millrace_api.domain.launch import read_breakpoints
from millrace_api.domain.requests import BULK_MAX, Bulk, Continue, Fork, Pause, Resume, Signal, bulk_filter, read
from millrace_api.domain.uses import Known, calls_of, missing
from millrace_api.errors import Refused
from millrace_shared.definition.locations import spell_location
from millrace_shared.definition.model import WorkflowDefinition

DEFINITION = WorkflowDefinition.model_validate(
    {
        "name": "parent",
        "steps": {
            "bill": {"workflow": "billing"},
            "again": {"workflow": {"name": "billing", "version": 3}},
            "self": {"workflow": "parent"},
            "team": {"group": {"steps": {"inner": {"workflow": "shiping"}}}},
        },
    }
)


def test_an_empty_body_is_an_empty_object():
    assert read(Pause, b"") == Pause()
    assert read(Resume, b"{}") == Resume()
    assert read(Signal, b'{"name":"x","data":[1]}').data == [1]
    assert read(Continue, b'{"input":{"a":1}}').input == {"a": 1}


@pytest.mark.parametrize(
    ("kind", "body", "loc"),
    [
        (Signal, b"{}", ["body", "name"]),
        (Fork, b'{"from_step":"a","inputs":{}}', ["body", "inputs"]),
        (Bulk, b'{"limit":%d}' % (BULK_MAX + 1), ["body", "limit"]),
        (Bulk, b'{"started_after":"yesterday"}', ["body", "started_after"]),
        (Bulk, msgspec.json.encode({"labels": dict.fromkeys(map(str, range(33)))}), ["body", "labels"]),
        (Pause, b'{"reason":1}', ["body", "reason"]),
    ],
)
def test_a_mistake_names_its_field(kind: type, body: bytes, loc: list[str]):
    with pytest.raises(Refused) as refused:
        read(kind, body)
    assert refused.value.code == "request_invalid"
    assert refused.value.errors[0]["loc"] == loc


def test_a_bulk_request_says_which():
    with pytest.raises(Refused, match="say which executions"):
        bulk_filter(Bulk(limit=5), None, ("failed",))
    chosen = bulk_filter(read(Bulk, b'{"labels":{"team":"a","x":null}}'), None, ("failed",))
    assert (chosen.statuses, chosen.labels, chosen.scope) == (("failed",), (("team", "a"), ("x", None)), "top")
    given = read(Bulk, b'{"statuses":["timeout"],"started_before":"2026-01-15T10:00:00"}')
    assert bulk_filter(given, "w", ("failed",)).statuses == ("timeout",)
    assert bulk_filter(given, "w", ()).started_before == datetime(2026, 1, 15, 10, tzinfo=UTC)
    with pytest.raises(Refused) as refused:
        bulk_filter(read(Bulk, b'{"started_after":"0001-01-01T00:00:00+14:00"}'), None, ())
    assert refused.value.errors[0]["loc"] == ["body", "started_after"]
    with pytest.raises(Refused) as refused:
        bulk_filter(Bulk(statuses=["broken"]), None, ())
    assert refused.value.errors[0]["loc"] == ["body", "statuses"]


def test_breakpoints_are_steps_or_all_of_them():
    assert read_breakpoints(DEFINITION, ("bill", "*", "bill")) == ("bill", "*")
    assert read_breakpoints(DEFINITION, None) == ()
    with pytest.raises(Refused) as refused:
        read_breakpoints(DEFINITION, ("bill", "bil"))
    assert refused.value.code == "request_invalid"
    assert refused.value.errors[0]["loc"] == ["body", "breakpoints", 1]
    assert 'did you mean "bill"?' in refused.value.detail


def test_calls_are_found_where_they_stand():
    found = {spell_location(location): call.key for location, call in calls_of(DEFINITION)}
    assert found == {
        "steps.bill.workflow": "billing",
        "steps.again.workflow": "billing@3",
        "steps.self.workflow": "parent",
        "steps.team.group.steps.inner.workflow": "shiping",
    }


def test_calls_that_lead_nowhere_say_so_and_what_was_meant():
    known = {"billing": Known(latest_version=2, archived=False)}
    found = {spell_location(one.location): one for one in missing(DEFINITION, known, ["billing", "shipping"])}
    assert set(found) == {"steps.again.workflow", "steps.team.group.steps.inner.workflow"}
    assert found["steps.again.workflow"].message == 'workflow "billing" has no version 3'
    assert found["steps.team.group.steps.inner.workflow"].suggestion == 'did you mean "shipping"?'


def test_an_archived_workflow_is_not_used_but_for_itself():
    known = {name: Known(3, archived=True) for name in ("billing", "shiping", "parent")}
    places = [spell_location(one.location) for one in missing(DEFINITION, known, [])]
    assert places == ["steps.bill.workflow", "steps.again.workflow", "steps.team.group.steps.inner.workflow"]
