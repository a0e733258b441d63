from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from millrace_api.domain.events import shown_events
from millrace_api.domain.measures import measures
from millrace_api.domain.problems import PROBLEMS, document, excerpt
from millrace_api.domain.rendering import (
    SUMMARY_BYTES_MAX,
    cost,
    detail,
    duration_s,
    in_order,
    summary,
    timeline,
    timestamp,
    value,
)
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.execution.tables import EXECUTIONS, STEPS
from millrace_shared.messages import ErrorInfo as Error
from millrace_shared.messages import StepRetryScheduled, StepScheduled, Transition
from millrace_shared.values import BlobRef, Payload

DEFINITION = WorkflowDefinition.model_validate(
    {
        "name": "w",
        "agents": {"writer": {"model": "offline:demo"}},
        "steps": {
            "z": {"transform": 1},
            "a": {"agent": "writer", "prompt": "p", "needs": ["z"], "name": "Write it"},
        },
    }
)
MOMENT = datetime(2026, 1, 15, 10, tzinfo=UTC)


def execution(**columns: Any) -> dict[str, Any]:
    return {**EXECUTIONS.new_row(("e",)), **columns}


def step(name: str, item: int = -1, **columns: Any) -> dict[str, Any]:
    return {**STEPS.new_row(("e", name, item)), **columns}


def test_times_are_utc_text_and_durations_seconds() -> None:
    assert timestamp(MOMENT) == "2026-01-15T10:00:00Z"
    assert timestamp(MOMENT.timestamp()) == "2026-01-15T10:00:00Z"
    assert timestamp(None) is None
    assert duration_s(MOMENT, MOMENT.timestamp() + 1.5) == 1.5
    assert duration_s(MOMENT, None) is None


def test_steps_stand_in_the_authors_order_with_those_that_have_not_run() -> None:
    rows = [step("a", step_order=1), step("a", 0), step("z", step_order=2)]
    assert [row["step"] for row in in_order(execution(), rows, DEFINITION)] == ["z", "a"]
    pending = in_order(execution(status="running"), rows[:1], DEFINITION)
    assert [(row["step"], row["status"]) for row in pending] == [("z", "pending"), ("a", "pending")]
    ended = in_order(execution(status="failed"), [], DEFINITION)
    assert {row["status"] for row in ended} == {"skipped"}
    assert [row["step"] for row in in_order(execution(), rows, None)] == ["a", "z"]


def test_an_agent_step_names_its_agent_and_the_timeline_the_authors_name() -> None:
    shown = detail(execution(), [step("a")], DEFINITION)
    assert [one["agent_id"] for one in shown["step_executions"]] == [None, "writer"]
    line = timeline(execution(), [step("a")], DEFINITION)
    assert [one["step_name"] for one in line["step_timeline"]] == ["z", "Write it"]


def test_a_stored_value_is_shown_as_what_is_known_of_it() -> None:
    reference = {"sha256": "f" * 64, "size_bytes": 99}
    assert value({"data": None, "refs": {"": reference}}) == {"stored": True, "size_bytes": 99, "sha256": "f" * 64}
    partly = value({"data": {"a": None, "b": 1}, "refs": {"/a": reference}})
    assert partly["value"] == {"a": None, "b": 1}
    assert partly["stored"]["/a"]["size_bytes"] == 99
    assert value({"data": 0}) == 0
    assert value(None) is None


@pytest.mark.parametrize("whole", ["é" * SUMMARY_BYTES_MAX, {"k": "é" * SUMMARY_BYTES_MAX}, [1] * SUMMARY_BYTES_MAX])
def test_a_long_value_is_cut_and_says_so(whole: Any) -> None:
    cut = summary({"data": whole})
    assert cut["truncated"] is True
    assert cut["size_bytes"] > SUMMARY_BYTES_MAX
    assert 0 < len(cut["preview"].encode()) <= SUMMARY_BYTES_MAX
    assert summary({"data": "short"}) == "short"


def test_an_unknown_price_is_not_free() -> None:
    assert cost(execution(cost_usd=Decimal("0.25"))) == 0.25
    assert cost(execution(cost_usd=Decimal("0.25"), unpriced_results=1)) is None
    assert cost({}) == 0


def test_success_is_judged_by_what_has_ended() -> None:
    row = {"total_executions": 10, "successful_executions": 3, "failed_executions": 1, "percentiles": [1, 2, 3]}
    found = measures(row, {"timeout": 1})
    assert found["success_rate"] == 75
    assert (found["p50_duration_seconds"], found["p99_duration_seconds"]) == (1, 3)
    assert measures({}, {})["success_rate"] is None


def test_events_show_values_and_times_but_no_secrets() -> None:
    large = Payload(refs={"": BlobRef("f" * 64, 70_000)})
    transition = Transition(
        1,
        "e",
        3,
        MOMENT.timestamp(),
        (
            StepScheduled("a", 1, input=large, secrets={"/h": ("", "token", "")}),
            StepRetryScheduled("a", 1, MOMENT.timestamp() + 60, Error("x", "timeout", "m")),
        ),
    )
    first, second = shown_events(transition)
    assert (first["id"], second["id"]) == ("3.0", "3.1")
    assert first["input"]["size_bytes"] == 70_000
    assert "secrets" not in first
    assert second["at"] == "2026-01-15T10:00:00Z"
    assert second["retry_at"] == "2026-01-15T10:01:00Z"


def test_every_problem_has_a_status_that_fits_its_code_and_a_remedy() -> None:
    for code, kind in PROBLEMS.items():
        assert 400 <= kind.status < 600
        assert kind.title
        assert kind.remedy.endswith(".")
        assert code == code.lower()


def test_a_problem_document_survives_any_text_and_repeats_little_of_it() -> None:
    broken = document("request_invalid", "\ud800", [{"loc": ["\udfff"], "msg": "m", "type": "t", "input": "x" * 9999}])
    assert len(broken) < 1_000
    assert excerpt({"a": "x" * 999}).startswith('{"a":"xxx')
    assert excerpt([1, 2]) == [1, 2]
    assert excerpt(object()) == "object"
