"""What an execution and its steps show after each event, by example."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from millrace_shared.execution.view import ExecutionView
from millrace_shared.messages import (
    ErrorInfo,
    Event,
    ExecutionAdmitted,
    ExecutionEnding,
    ExecutionFinished,
    ExecutionHeld,
    ExecutionPaused,
    ExecutionResumed,
    ExecutionStarted,
    Origin,
    Parent,
    SignalReceived,
    StartRequest,
    StepCancelled,
    StepCompleted,
    StepExpanded,
    StepFailed,
    StepIterated,
    StepQueued,
    StepRetryScheduled,
    StepReused,
    StepScheduled,
    StepSkipped,
    StepWaiting,
    Transition,
    Usage,
)
from millrace_shared.testing.logs import simple_log
from millrace_shared.values import BlobRef, Payload

ID = "0199d5f0-0000-7000-8000-000000000001"
TIMED_OUT = ErrorInfo("step_timeout", "timeout", "too slow")
BROKEN = ErrorInfo("broken", "tool_error", "it broke")


def at(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


def view_of(*moments: list[Event]) -> ExecutionView:
    """The view of a log whose transition n is decided at second 100 + n."""
    return ExecutionView.fold(
        Transition(1, ID, version, 100.0 + version, tuple(events)) for version, events in enumerate(moments, 1)
    )


def started(**fields: Any) -> ExecutionStarted:
    request = StartRequest(ID, "default", "wf-1", "report", 3, "abc", requested_at=99.5, **fields)
    return ExecutionStarted(request, 400.0)


def step(view: ExecutionView, name: str, item: int | None = None) -> dict[str, Any]:
    row = view.step(name, item)
    assert row is not None
    return row


def test_an_execution_that_began() -> None:
    view = view_of([started(execution_name="n", labels={"a": "b"}, input=Payload({"x": 1}), priority="high")])
    row = view.execution
    assert row is not None
    assert row["status"] == "running"
    assert row["workflow_version"] == 3
    assert row["definition"] == "abc"
    assert row["input"] == {"data": {"x": 1}}
    assert row["output"] is None
    assert row["labels"] == {"a": "b"}
    assert row["trace_id"] == ID.replace("-", "")
    assert (row["created_at"], row["started_at"], row["deadline_at"]) == (at(99.5), at(101), at(400))
    assert row["execution_number"] is None


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "timeout"])
def test_an_execution_that_ended(status: Any) -> None:
    error = None if status == "completed" else BROKEN
    row = view_of([started()], [ExecutionEnding(status, 110.0)], [ExecutionFinished(status, error=error)]).execution
    assert row is not None
    assert (row["status"], row["completed_at"], row["deadline_at"]) == (status, at(103), at(110))
    assert row["output"] == {"data": None}
    assert row["error_category"] == (error and "tool_error")
    assert row["last_version"] == 3


def test_a_step_from_scheduled_to_completed() -> None:
    view = view_of([started(), StepScheduled("a", 1, input=Payload({"n": 1}))])
    assert step(view, "a")["status"] == "pending"
    assert step(view, "a")["scheduled_at"] == at(101)
    view.apply(
        Transition(1, ID, 2, 102.0, (StepCompleted("a", 1, None, Payload("out"), 101.2, 101.9, None, "runner-1"),))
    )
    row = step(view, "a")
    assert (row["status"], row["attempt"], row["retry_count"], row["runner"]) == ("completed", 1, 0, "runner-1")
    assert (row["input"], row["output"]) == ({"data": {"n": 1}}, {"data": "out"})
    assert (row["started_at"], row["completed_at"]) == (at(101.2), at(102))
    assert [attempt["status"] for attempt in view.attempts] == ["completed"]


def test_a_retry_keeps_the_first_start_and_the_input_and_clears_the_error() -> None:
    retried = StepRetryScheduled("a", 1, 105.0, BROKEN, None, 100.5, 101.0, Usage(1, 10, 5, Decimal("0.5")), "r1")
    view = view_of([started(), StepScheduled("a", 1, input=Payload(1))], [retried])
    row = step(view, "a")
    assert (row["status"], row["retry_count"], row["wait_until"]) == ("waiting", 1, at(105))
    assert row["error"]["code"] == "broken"
    done = StepCompleted("a", 2, None, Payload(2), 105.1, 106.0, Usage(1, 10, 5, Decimal("0.25")), "r2")
    view = view_of([started(), StepScheduled("a", 1, input=Payload(1))], [retried], [StepScheduled("a", 2)], [done])
    row = step(view, "a")
    assert (row["status"], row["attempt"], row["retry_count"], row["error"]) == ("completed", 2, 1, None)
    assert (row["error_category"], row["wait_until"], row["input"]) == (None, None, {"data": 1})
    assert (row["started_at"], row["tokens_used"], row["cost_usd"]) == (at(100.5), 30, Decimal("0.75"))
    assert [(one["attempt"], one["status"]) for one in view.attempts] == [(1, "failed"), (2, "completed")]
    assert view.execution is not None
    assert (view.execution["retries"], view.execution["llm_calls"], view.execution["cost_usd"]) == (
        1,
        2,
        Decimal("0.75"),
    )


def test_a_failure_by_timeout_is_shown_as_a_timeout() -> None:
    view = view_of([started(), StepScheduled("a", 1)], [StepFailed("a", TIMED_OUT, 1)])
    assert step(view, "a")["status"] == "timeout"
    assert view.attempts[0]["status"] == "timeout"
    assert view.attempts[0]["started_at"] is None
    assert view.execution is not None
    assert view.execution["steps_failed"] == 1


def test_an_unknown_price_is_told_from_no_cost() -> None:
    done = StepCompleted("a", 1, usage=Usage(2, 10, 5, None))
    view = view_of([started(), StepScheduled("a", 1)], [done])
    assert (step(view, "a")["cost_usd"], step(view, "a")["unpriced_results"]) == (Decimal(0), 1)
    assert view.attempts[0]["cost_usd"] is None


def test_items_have_rows_of_their_own_and_their_usage_shows_on_the_step() -> None:
    usage = Usage(1, 10, 5, Decimal("0.5"))
    view = view_of(
        [started(), StepExpanded("a", 2), StepScheduled("a", 1, 0), StepScheduled("a", 1, 1)],
        [StepCompleted("a", 1, 0, Payload("x"), usage=usage), StepFailed("a", BROKEN, 1, 1, continued=True)],
        [StepCompleted("a", output=Payload(["x", None]))],
    )
    assert (step(view, "a")["status"], step(view, "a")["item_count"]) == ("completed", 2)
    assert (step(view, "a")["started_at"], step(view, "a")["tokens_used"]) == (at(101), 15)
    assert (step(view, "a", 0)["status"], step(view, "a", 1)["status"]) == ("completed", "failed")
    assert view.execution is not None
    assert (view.execution["steps_completed"], view.execution["steps_failed"]) == (1, 0)
    assert view.execution["tokens_used"] == 15
    assert [row["item"] for row in view.steps] == [-1, 0, 1]


def test_steps_that_never_run() -> None:
    view = view_of([started(), StepSkipped("a", "condition"), StepQueued("b"), StepCancelled("c", reason="end")])
    assert [(row["step"], row["status"], row["reason"]) for row in view.steps] == [
        ("a", "skipped", "condition"),
        ("b", "queued", None),
        ("c", "cancelled", "end"),
    ]
    assert view.execution is not None
    assert (view.execution["steps_skipped"], view.execution["steps_cancelled"]) == (1, 1)


def test_a_wait_says_until_when() -> None:
    view = view_of([started(), StepWaiting("a", 160.0)])
    assert (step(view, "a")["status"], step(view, "a")["wait_until"]) == ("waiting", at(160))
    view = view_of([started(), StepWaiting("a", 160.0)], [StepCompleted("a")])
    assert (step(view, "a")["wait_until"], step(view, "a")["started_at"]) == (None, at(101))


def test_an_item_that_waits_for_a_place_leaves_its_step_running() -> None:
    view = view_of([started(), StepExpanded("a", 2), StepQueued("a", 0)])
    assert (step(view, "a")["status"], step(view, "a", 0)["status"]) == ("running", "queued")


def execution(view: ExecutionView) -> dict[str, Any]:
    assert view.execution is not None
    return view.execution


def test_a_gate_holds_an_execution_and_the_wait_does_not_count() -> None:
    held = ExecutionHeld("g1", "concurrency", "acme")
    row = execution(view_of([started(), held]))
    assert (row["status"], row["started_at"]) == ("pending", None)
    assert row["held"] == {"gate": "g1", "rule": "concurrency", "key": "acme", "since": "1970-01-01T00:01:41Z"}
    row = execution(view_of([started(), held], [ExecutionAdmitted("g1"), ExecutionHeld("g2", "throttle")]))
    assert (row["status"], row["held"]["gate"]) == ("pending", "g2")
    row = execution(view_of([started(), held], [ExecutionAdmitted("g1", 500.0)]))
    assert (row["status"], row["held"], row["started_at"], row["deadline_at"]) == ("running", None, at(102), at(500))


def test_a_paused_execution_says_since_when_by_whom_and_why() -> None:
    paused = ExecutionPaused(900.0, "p", "look", "ann")
    row = execution(view_of([started()], [paused]))
    assert (row["status"], row["deadline_at"]) == ("paused", at(900))
    assert row["paused"] == {
        "reason": "look",
        "by": "ann",
        "since": "1970-01-01T00:01:42Z",
        "deadline": "1970-01-01T00:15:00Z",
    }
    row = execution(view_of([started()], [paused], [ExecutionResumed(450.0)]))
    assert (row["status"], row["paused"], row["deadline_at"]) == ("running", None, at(450))


def test_a_pause_and_a_gate_may_end_in_either_order() -> None:
    held, paused = ExecutionHeld("g", "throttle"), ExecutionPaused(900.0)
    admitted, resumed = ExecutionAdmitted("g", 500.0), ExecutionResumed(450.0)
    assert execution(view_of([started(), held], [paused]))["status"] == "paused"
    assert execution(view_of([started(), held], [paused], [resumed]))["status"] == "pending"
    assert execution(view_of([started(), held], [paused], [resumed], [admitted]))["status"] == "running"
    assert execution(view_of([started(), held], [paused], [admitted]))["status"] == "paused"
    assert execution(view_of([started(), held], [paused], [admitted], [resumed]))["status"] == "running"


def test_an_execution_that_ends_while_it_is_held_or_paused_is_neither() -> None:
    log: list[list[Event]] = [[started(), ExecutionHeld("g", "throttle")], [ExecutionPaused(900.0)]]
    row = execution(view_of(*log, [ExecutionEnding("cancelled", 110.0, BROKEN)]))
    assert (row["status"], row["held"], row["paused"]) == ("running", None, None)
    assert (row["ending"]["outcome"], row["ending"]["error"]["code"]) == ("cancelled", "broken")
    assert execution(view_of(*log, [ExecutionFinished("timeout")]))["status"] == "timeout"


def test_a_failure_leaves_a_pause_in_place() -> None:
    log: list[list[Event]] = [[started()], [ExecutionPaused(900.0)], [ExecutionEnding("failed", 110.0, BROKEN)]]
    row = execution(view_of(*log))
    assert (row["status"], row["ending"]["deadline"]) == ("paused", "1970-01-01T00:01:50Z")
    assert execution(view_of(*log, [ExecutionResumed(450.0)]))["status"] == "running"


def test_a_child_knows_its_parent() -> None:
    parent = Parent("p", "team", 2, "r", 3, 7, inline=True)
    row = execution(view_of([started(parent=parent, part="outer/team", breakpoints=("*",))]))
    assert (row["parent_id"], row["parent_step"], row["parent_item"]) == ("p", "team", 7)
    assert (row["root_id"], row["depth"], row["inline"], row["part"]) == ("r", 3, True, "outer/team")
    assert row["breakpoints"] == ["*"]
    row = execution(view_of([started(origin=Origin("fork", "e", "load"))]))
    assert (row["parent_id"], row["root_id"], row["depth"], row["inline"]) == (None, None, 0, False)
    assert row["origin"] == {"kind": "fork", "execution_id": "e", "step": "load"}


def test_waits_say_what_for() -> None:
    signal = StepWaiting("a", 160.0, reason="signal", signal="payment")
    question = StepWaiting("b", 160.0, reason="approval", input=Payload({"message": "?"}))
    view = view_of([started(), signal, question], [SignalReceived("s", "other")])
    assert (step(view, "a")["wait_reason"], step(view, "a")["signal"]) == ("signal", "payment")
    assert (step(view, "b")["wait_reason"], step(view, "b")["input"]) == ("approval", {"data": {"message": "?"}})
    assert execution(view)["status"] == "running"


def test_a_step_that_is_held_at_a_breakpoint_has_not_begun() -> None:
    held = StepWaiting("a", 160.0, reason="breakpoint", input=Payload({"n": 1}))
    view = view_of([started(), held])
    assert (step(view, "a")["status"], step(view, "a")["started_at"]) == ("waiting", None)
    assert step(view, "a")["input"] == {"data": {"n": 1}}
    view = view_of([started(), held], [StepScheduled("a", 1, input=Payload({"n": 2}))])
    assert (step(view, "a")["status"], step(view, "a")["input"]) == ("pending", {"data": {"n": 2}})


def test_iterations_are_attempts_with_inputs_and_costs_of_their_own() -> None:
    usage = Usage(1, 10, 5, Decimal("0.5"))
    view = view_of(
        [started(), StepScheduled("a", 1, input=Payload(1))],
        [StepIterated("a", 1, 1, None, Payload("one"), 101.1, 101.9, usage, "r1")],
        [StepScheduled("a", 2, input=Payload(2))],
    )
    row = step(view, "a")
    assert (row["status"], row["iteration"], row["retry_count"], row["attempt"]) == ("pending", 2, 0, 2)
    assert step(view_of([started(), StepIterated("a", 1, 1)]), "a")["attempt"] == 2
    assert (row["input"], row["output"], row["tokens_used"]) == ({"data": 2}, {"data": "one"}, 15)
    view.apply(Transition(1, ID, 4, 104.0, (StepCompleted("a", 2, output=Payload("two"), usage=usage),)))
    row = step(view, "a")
    assert (row["status"], row["iteration"], row["output"]) == ("completed", 2, {"data": "two"})
    assert [(one["attempt"], one["status"], one["tokens_used"]) for one in view.attempts] == [
        (1, "completed", 15),
        (2, "completed", 15),
    ]
    assert (execution(view)["llm_calls"], execution(view)["retries"], execution(view)["steps_completed"]) == (2, 0, 1)


def test_a_reused_step_is_completed_and_costs_nothing() -> None:
    view = view_of([started(), StepReused("a", "e1", output=Payload("x")), StepReused("b", "e1", 0, Payload("y"))])
    row = step(view, "a")
    assert (row["status"], row["reused_from"], row["output"]) == ("completed", "e1", {"data": "x"})
    assert (row["started_at"], row["completed_at"], row["attempt"]) == (at(101), at(101), 0)
    assert execution(view)["steps_completed"] == 1
    assert step(view, "b", 0)["reused_from"] == "e1"
    assert view.attempts == []


def test_a_hit_of_the_cache_is_marked() -> None:
    done = StepCompleted("a", 1, output=Payload("x"), cached=True)
    assert step(view_of([started(), StepScheduled("a", 1)], [done]), "a")["cached"] is True


def test_scores_of_checks_stand_beside_the_step() -> None:
    done = StepCompleted("a", 1, output=Payload("x"), scores={"output.polite": 0.9})
    view = view_of([started(), StepScheduled("a", 1), StepScheduled("b", 1)], [done])
    assert step(view, "a")["scores"] == {"output.polite": 0.9}
    assert step(view, "b")["scores"] is None


def test_a_step_names_the_execution_that_performs_it() -> None:
    view = view_of([started(), StepScheduled("a", 1, child="c1")], [StepRetryScheduled("a", 1, 105.0, BROKEN)])
    assert (step(view, "a")["child_id"], step(view, "a")["wait_reason"]) == ("c1", "retry")
    view.apply(Transition(1, ID, 3, 103.0, (StepScheduled("a", 2, child="c2"),)))
    assert (step(view, "a")["child_id"], step(view, "a")["retry_count"]) == ("c2", 1)


def test_references_stand_beside_the_data() -> None:
    payload = Payload({"big": None}, {"/big": BlobRef("f" * 64, 70_000)})
    view = view_of([started(input=payload)])
    assert view.execution is not None
    assert view.execution["input"] == {
        "data": {"big": None},
        "refs": {"/big": {"sha256": "f" * 64, "size_bytes": 70_000}},
    }


def test_a_log_without_its_beginning_still_has_rows() -> None:
    view = ExecutionView.fold(simple_log(ID)[2:])
    assert view.execution is not None
    assert (view.execution["workspace"], view.execution["status"]) == ("", "completed")


def test_the_view_before_any_log() -> None:
    view = ExecutionView()
    assert (view.execution, view.steps, view.step("a"), view.last_version) == (None, [], None, 0)
