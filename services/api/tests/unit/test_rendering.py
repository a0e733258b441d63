from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from millrace_api.domain.events import Origin, shown_events, workflow_events
from millrace_api.domain.measures import measures
from millrace_api.domain.problems import PROBLEMS, document, excerpt
from millrace_api.domain.rendering import (
    SUMMARY_BYTES_MAX,
    attempt_detail,
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
from millrace_shared.messages import (
    Event,
    ExecutionAdmitted,
    ExecutionFinished,
    ExecutionHeld,
    ExecutionPaused,
    ExecutionResumed,
    ExecutionStarted,
    SignalReceived,
    StartRequest,
    StepCompleted,
    StepIterated,
    StepRetryScheduled,
    StepReused,
    StepScheduled,
    StepWaiting,
    Transition,
)
from millrace_shared.messages import Origin as Started
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


def test_where_an_execution_comes_from_and_what_keeps_it() -> None:
    shown = detail(execution(status="running"), [], DEFINITION)
    assert (shown["parent_id"], shown["root_id"], shown["depth"], shown["origin"]) == (None, "e", 0, None)
    assert (shown["held"], shown["paused"], shown["ending"], shown["breakpoints"]) == (None, None, None, [])
    origin = {"kind": "fork", "execution_id": "before", "step": "load"}
    child = detail(
        execution(parent_id="p", parent_step="team", parent_item=2, root_id="r", depth=2, part="team", origin=origin),
        [],
        DEFINITION,
    )
    assert (child["parent_id"], child["parent_step_id"], child["parent_item"]) == ("p", "team", 2)
    assert (child["root_id"], child["depth"], child["part"]) == ("r", 2, "team")
    assert child["origin"] == {"kind": "fork", "execution_id": "before", "step_id": "load", "trigger_id": None}


def test_a_standstill_is_shown_while_it_lasts() -> None:
    columns: dict[str, Any] = {
        "held": {"gate": "g", "rule": "concurrency", "key": "", "since": "S"},
        "paused": {"by": "ann", "reason": "", "since": "S", "deadline": "D"},
        "ending": {"outcome": "failed", "since": "S", "error": {"code": "x"}},
    }
    pending = detail(execution(status="pending", **columns), [], DEFINITION)
    assert pending["held"] == {"rule": "concurrency", "key": None, "since": "S"}
    assert (pending["paused"], pending["ending"]) == (None, {"outcome": "failed", "since": "S"})
    paused = detail(execution(status="paused", **columns), [], DEFINITION)
    assert (paused["held"], paused["paused"]) == (None, {"by": "ann", "reason": None, "since": "S"})
    assert paused["deadline"] == "D"
    ended = detail(execution(status="failed", **columns), [], DEFINITION)
    assert (ended["held"], ended["paused"], ended["ending"]) == (None, None, None)


def test_a_waiting_step_says_what_for_and_a_later_one_no_longer() -> None:
    waiting = step("a", status="waiting", wait_reason="signal", signal="payment", wait_until=MOMENT)
    shown = detail(execution(), [waiting], DEFINITION)["step_executions"][1]
    assert (shown["status"], shown["reason"], shown["signal"]) == ("waiting", "signal", "payment")
    assert shown["wait_until"] == "2026-01-15T10:00:00Z"
    done = detail(execution(), [{**waiting, "status": "completed"}], DEFINITION)["step_executions"][1]
    assert (done["reason"], done["signal"], done["wait_until"]) == (None, None, None)
    skipped = detail(execution(), [step("a", status="skipped", reason="its condition is false")], DEFINITION)
    assert skipped["step_executions"][1]["reason"] == "its condition is false"


def test_a_queued_step_is_pending_and_waits_for_a_place() -> None:
    shown = timeline(execution(), [step("a", status="queued")], DEFINITION)["step_timeline"][1]
    assert (shown["status"], shown["reason"]) == ("pending", "place")


def test_every_view_shows_what_guards_gave() -> None:
    rows = [step("a", status="completed", scores={"output.polite": 0.5}), step("z", status="completed")]
    shown = timeline(execution(), rows, DEFINITION)["step_timeline"]
    assert {one["step_id"]: one["scores"] for one in shown} == {"a": {"output.polite": 0.5}, "z": {}}


def test_the_timeline_shows_hits_of_the_cache_reuse_and_children() -> None:
    rows = [step("z", status="completed", cached=True), step("a", status="completed", reused_from="before")]
    shown = timeline(execution(), rows, DEFINITION)["step_timeline"]
    assert [(one["cached"], one["reused_from"]) for one in shown] == [(True, None), (False, "before")]
    child = timeline(execution(), [step("a", status="pending", child_id="c")], DEFINITION)["step_timeline"][1]
    assert child["child_execution_id"] == "c"


def test_iterations_are_shown_of_steps_that_repeat() -> None:
    repeating = WorkflowDefinition.model_validate(
        {"name": "w", "steps": {"a": {"python": "m:f", "repeat": {"until": "true", "max": 3}}, "b": {"transform": 1}}}
    )
    shown = detail(execution(), [step("a", iteration=2), step("b")], repeating)["step_executions"]
    assert [one["iteration"] for one in shown] == [2, None]


def test_an_attempt_shows_what_it_cost_if_that_is_known() -> None:
    row = {"attempt": 2, "status": "failed", "started_at": MOMENT, "finished_at": MOMENT, "llm_calls": 1}
    shown = attempt_detail({**row, "cost_usd": Decimal("0.5"), "runner": "r", "error": {"code": "x"}})
    assert (shown["attempt"], shown["cost_usd"], shown["runner"], shown["duration"]) == (2, 0.5, "r", 0.0)
    assert attempt_detail({**row, "cost_usd": None})["cost_usd"] is None
    assert attempt_detail({**row, "cost_usd": None, "llm_calls": 0})["cost_usd"] == 0


def live(*events: Event, inline: bool = False) -> list[tuple[str | None, str, dict[str, Any]]]:
    """What the feeds of a workflow show of a transition."""
    origin = Origin("default", "wf", 100.0, {"a": "Write it"}, inline)
    shown = workflow_events(Transition(2, "e", 1, 160.0, events), origin)
    return [(step_id, message["event"], message["data"]) for step_id, message in shown]


STARTED = ExecutionStarted(StartRequest("e", "default", "wf", "w", 1, "0", 100.0), 400.0)


def test_an_execution_starts_when_the_last_gate_lets_it_in() -> None:
    assert [name for _, name, _ in live(STARTED)] == ["workflow_started"]
    held = ExecutionHeld("g", "throttle")
    assert [(name, data["status"]) for _, name, data in live(STARTED, held)] == [("workflow_queued", "pending")]
    assert live(ExecutionAdmitted("g")) == []
    assert [name for _, name, _ in live(ExecutionAdmitted("g", 500.0))] == ["workflow_started"]


def test_pauses_are_shown_live() -> None:
    shown = live(ExecutionPaused(900.0), ExecutionResumed(900.0))
    assert [(name, data["status"]) for _, name, data in shown] == [
        ("workflow_paused", "paused"),
        ("workflow_resumed", "running"),
    ]


def test_a_group_is_not_shown_among_the_executions_of_its_workflow() -> None:
    assert live(STARTED, StepScheduled("a", 1), ExecutionFinished("completed"), inline=True) == []


def test_steps_are_shown_live_whatever_they_do() -> None:
    shown = live(
        StepWaiting("a", 200.0, reason="signal", signal="payment"),
        StepIterated("a", 2, 3, output=Payload("draft")),
        StepCompleted("a", 1, output=Payload("x"), cached=True),
        StepReused("a", "before", output=Payload("x")),
    )
    assert [name for _, name, _ in shown] == ["step_waiting", "step_iterated", "step_completed", "step_completed"]
    waiting, iterated, cached, reused = (data for _, _, data in shown)
    assert (waiting["reason"], waiting["signal"], waiting["until"]) == ("signal", "payment", "1970-01-01T00:03:20Z")
    assert (iterated["iteration"], iterated["output"]) == (2, "draft")
    assert (cached["cached"], reused["reused_from"], reused["output"]) == (True, "before", "x")
    assert {data["step_name"] for _, _, data in shown} == {"Write it"}


def test_the_data_of_a_signal_is_shown_and_what_was_reused_is_not_repeated() -> None:
    reuse = Payload({"execution_id": "before", "steps": {}})
    request = StartRequest("e", "default", "wf", "w", 1, "0", 100.0, reuse=reuse, origin=Started("retry", "before"))
    signal = SignalReceived("s", "payment", Payload({"amount": 5}))
    first, second = shown_events(Transition(2, "e", 1, 160.0, (ExecutionStarted(request, 400.0), signal)))
    assert "reuse" not in first["request"]
    assert first["request"]["origin"] == {"kind": "retry", "execution_id": "before"}
    assert (second["name"], second["data"]) == ("payment", {"amount": 5})
