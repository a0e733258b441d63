"""Why an execution has not ended: one log for each thing that it may wait for."""

from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_api.domain.graphs import count_items
from millrace_api.domain.phrases import span
from millrace_api.domain.why import REASONS_MAX, sentence, why
from millrace_api.domain.why_scene import AHEAD_MAX, Inbox, Line, Queue, Reason, Scene
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.execution.tables import EXECUTIONS
from millrace_shared.execution.view import ExecutionView
from millrace_shared.gates import Terms
from millrace_shared.messages import (
    ErrorInfo,
    Event,
    ExecutionAdmitted,
    ExecutionEnding,
    ExecutionFinished,
    ExecutionHeld,
    ExecutionPaused,
    ExecutionStarted,
    StartRequest,
    StepCompleted,
    StepExpanded,
    StepIterated,
    StepQueued,
    StepRetryScheduled,
    StepScheduled,
    StepWaiting,
    Transition,
)
from millrace_shared.testing.logs import random_log

ID = "0199d5f0-0000-7000-8000-000000000001"
CHILD = "0199d5f0-0000-7000-8000-000000000002"
BEGIN = datetime(2026, 1, 15, 10, tzinfo=UTC).timestamp()
FETCH: dict[str, Any] = {"http": {"url": "https://api.example.com"}, "timeout": 300.0}
DEFINITION = WorkflowDefinition.model_validate(
    {
        "name": "w",
        "limits": {"max_parallel": 4},
        "steps": {
            "fetch": {**FETCH, "retry": {"max_attempts": 4}},
            "loop": {**FETCH, "repeat": {"until": "output.done", "max": 5}},
            "many": {**FETCH, "for_each": [1, 2, 3], "retry": {"max_attempts": 3}},
            "ok": {"approval": {"message": "Publish?", "deadline": 60.0, "default": "reject"}},
            "paid": {"wait": {"signal": "payment"}},
            "told": {"wait": {"signal": "payment", "timeout": 60.0, "default": None}},
            "pause": {"wait": {"delay": 60.0}},
            "team": {"group": {"steps": {"a": {"transform": 1}}}},
        },
    }
)
RATE_LIMITED = ErrorInfo("limited", "rate_limit", "429 of the model")


def scene(*moments: list[Event], after_s: float = 12.0, held: bool = False, **known: Any) -> Scene:
    """What is known `after_s` after the last transition; transition n is decided n seconds after 10:00."""
    request = StartRequest(ID, "default", "wf", "w", 1, "0" * 64, BEGIN)
    first: list[Event] = [ExecutionStarted(request, BEGIN + 3600)]
    first += [ExecutionHeld("gate", "concurrency", "acme")] if held else []
    log = [first, *moments]
    view = ExecutionView.fold(Transition(2, ID, n, BEGIN + n, tuple(events)) for n, events in enumerate(log, 1))
    assert view.execution is not None
    return Scene(
        view.execution,
        [row for row in view.steps if row["item"] < 0],
        known.pop("definition", DEFINITION),
        datetime.fromtimestamp(BEGIN + len(log) + after_s, UTC),
        items=[row for row in view.steps if row["item"] >= 0 and row["status"] not in {"completed", "failed"}],
        counts=count_items(view.steps),
        **known,
    )


def reason(*moments: list[Event], **known: Any) -> Reason:
    reasons = why(scene(*moments, **known))
    assert len(reasons) == 1, reasons
    return reasons[0]


def test_an_approval_names_its_deadline_what_it_does_and_what_to_do() -> None:
    found = reason([StepWaiting("ok", BEGIN + 62, reason="approval")])
    assert found.message == (
        "step `ok` waits for an approval since 2026-01-15T10:00:02Z (12 s), until 2026-01-15T10:01:02Z (in 48 s) "
        f"(then: reject): POST /executions/{ID}/steps/ok/approve"
    )
    assert (found.code, found.step_id, found.until) == ("approval", "ok", "2026-01-15T10:01:02Z")


def test_a_signal_is_named_with_what_its_timeout_does() -> None:
    found = reason([StepWaiting("paid", BEGIN + 62, reason="signal", signal="payment")])
    assert found.message.startswith(
        "step `paid` waits for the signal `payment` since 2026-01-15T10:00:02Z (12 s), until "
    )
    assert found.message.endswith(f"(then: it fails as timeout): POST /executions/{ID}/signal")
    assert "(then: it completes with its default)" in reason([StepWaiting("told", BEGIN + 62, None, "signal")]).message


def test_a_breakpoint_a_delay_and_an_item() -> None:
    held = reason([StepWaiting("fetch", BEGIN + 62, reason="breakpoint")])
    assert "step `fetch` is held at a breakpoint since" in held.message
    assert held.message.endswith(f"POST /executions/{ID}/steps/fetch/continue")
    pause = reason([StepWaiting("pause", BEGIN + 62)])
    assert pause.message == (
        "step `pause` waits since 2026-01-15T10:00:02Z (12 s), until 2026-01-15T10:01:02Z (in 48 s)"
    )
    assert pause.code == "delay"


@pytest.mark.parametrize("waiting", ["delay", "until", "signal", "approval", "breakpoint"])
def test_a_wait_that_is_over_says_that_nobody_has_noticed(waiting: Any) -> None:
    found = reason([StepWaiting("pause", BEGIN + 10, reason=waiting)], after_s=100)
    assert "but no orchestrator has gone on yet: an orchestrator looks at it again within 10 min" in found.message


def test_a_retry_says_which_when_and_after_what() -> None:
    retry = StepRetryScheduled("fetch", 1, BEGIN + 27, RATE_LIMITED)
    found = reason([StepScheduled("fetch", 1)], [retry])
    assert found.message == "attempt 2 of 4 of step `fetch` starts in 12 s, after rate_limit: 429 of the model"
    late = reason([StepScheduled("fetch", 1)], [retry], after_s=100)
    assert "attempt 2 of 4 of step `fetch` waited until 2026-01-15T10:00:27Z, 76 s ago" in late.message


def test_attempts_of_a_repeated_step_are_not_counted_against_its_retries() -> None:
    again = [StepIterated("loop", 1, 1), StepScheduled("loop", 2)]
    found = reason([StepScheduled("loop", 1)], again, [StepRetryScheduled("loop", 2, BEGIN + 30, RATE_LIMITED)])
    assert found.message.startswith("attempt 3 of step `loop` starts in")
    assert reason([StepScheduled("loop", 1)], [StepIterated("loop", 1, 1)]).code == "handed_out"


def test_an_attempt_that_nobody_has_begun_shows_the_queue() -> None:
    found = reason([StepScheduled("fetch", 2)], queues={"http": Queue(230, 64, 2)}, after_s=3)
    assert found.message == (
        "attempt 2 of step `fetch` was handed to the runners 3 s ago, and none has said that it began it: "
        "230 http attempts are queued, 64 are taken"
    )
    idle = reason([StepScheduled("fetch", 1)], queues={"http": Queue(1, 0, 0)})
    assert idle.message.endswith("1 http attempts are queued, 0 are taken, and no runner asks for any")
    assert reason([StepScheduled("fetch", 1)]).message.endswith("and none has said that it began it")


def test_a_running_attempt_says_since_when_where_and_for_how_long_at_most() -> None:
    shown = scene([StepScheduled("fetch", 1)], after_s=8)
    begun = {"status": "running", "runner": "runner-1", "started_at": datetime.fromtimestamp(BEGIN + 2, UTC)}
    found = why(Scene(shown.row, [{**shown.steps[0], **begun}], DEFINITION, shown.now))
    assert [one.message for one in found] == ["step `fetch` has run for 8 s on runner-1, of at most 5 min"]
    late = datetime.fromtimestamp(BEGIN + 400, UTC)
    found = why(Scene(shown.row, [{**shown.steps[0], **begun}], DEFINITION, late))
    assert "longer than the 5 min that it may: its runner is lost, and another takes over" in found[0].message


def test_a_queued_step_says_how_many_run() -> None:
    four = [StepScheduled(f"step-{number}", 1) for number in range(4)]
    found = [one for one in why(scene([*four, StepQueued("fetch")])) if one.code == "place"]
    assert [one.message for one in found] == [
        "step `fetch` is queued: 4 of its steps run at once, and limits.max_parallel is 4"
    ]
    assert "a place is about to be given to it" in reason([StepQueued("fetch")]).message


def test_a_for_each_counts_its_items_and_explains_the_first() -> None:
    begun = [StepExpanded("many", 3), StepScheduled("many", 1, 0), StepScheduled("many", 1, 1)]
    found = reason(begun, [StepCompleted("many", 1, 0), StepRetryScheduled("many", 1, BEGIN + 27, RATE_LIMITED, 1)])
    assert found.message == (
        "step `many` runs 3 items: 1 of them ended, 1 under way; the first of them: "
        "attempt 2 of 3 of item 1 of step `many` starts in 12 s, after rate_limit: 429 of the model"
    )
    assert [(one.code, one.item) for one in found.reasons] == [("retry", 1)]


def test_a_child_execution_is_explained_in_its_place() -> None:
    scheduled: list[Event] = [StepScheduled("team", 1, child=CHILD)]
    inner = Reason("approval", "step `ok` waits for an approval", "ok")
    found = reason(scheduled, children={CHILD: [inner]})
    assert found.message == f"step `team` waits for its execution {CHILD}: step `ok` waits for an approval"
    assert (found.execution_id, found.reasons) == (CHILD, (inner,))
    assert found.document()["reasons"][0]["step_id"] == "ok"
    assert reason(scheduled).message == f"step `team` waits for its execution {CHILD}"


def test_a_pause_says_by_whom_and_until_when_beside_what_still_runs() -> None:
    paused = ExecutionPaused(BEGIN + 7203, "p", "to look at it", "ann")
    reasons = why(scene([StepScheduled("fetch", 1)], [paused]))
    assert [one.code for one in reasons] == ["paused", "handed_out"]
    assert reasons[0].message == (
        'it is paused by ann ("to look at it") since 2026-01-15T10:00:03Z (12 s), at most until 2026-01-15T12:00:03Z '
        f"(in 119 min 48 s): POST /executions/{ID}/resume"
    )
    assert sentence(reasons) == f"{reasons[0].message} (and 1 more)"


@pytest.mark.parametrize(
    ("rule", "line", "said"),
    [
        ("concurrency", Line(Terms(limit=2), 2, 3, False), "2 are inside, of at most 2, and 3 are ahead of it"),
        ("throttle", Line(Terms(limit=10, per_s=60), 0, 0, False), "10 are let in within 60 s, and 0 are ahead of it"),
        ("debounce", Line(Terms(delay_s=30), 0, 1, False), "it is let in once no other has come for 30 s"),
        ("concurrency", Line(Terms(limit=2), 2, 0, True), "it has been let in, and the message that says so is on"),
        ("concurrency", Line(Terms(limit=2), 2, AHEAD_MAX, False), "1000 or more are ahead of it"),
    ],
)
def test_a_gate_says_how_the_line_stands(rule: str, line: Line, said: str) -> None:
    found = reason([ExecutionAdmitted("gate"), ExecutionHeld("other", rule, "acme")], held=True, line=line)
    assert found.message.startswith(f"it waits at the gate {rule} (key acme) since 2026-01-15T10:00:02Z (12 s): ")
    assert said in found.message
    alone = reason(held=True).message
    assert alone == "it waits at the gate concurrency (key acme) since 2026-01-15T10:00:01Z (12 s)"


def test_an_execution_that_is_ending_says_how_why_and_until_when() -> None:
    broken = ErrorInfo("x", "client_error", "404", detail={"step_id": "fetch"})
    reasons = why(scene([StepScheduled("loop", 1), ExecutionEnding("failed", BEGIN + 62, broken)]))
    assert [one.code for one in reasons] == ["ending", "handed_out"]
    assert reasons[0].message == (
        "it is ending as failed since 2026-01-15T10:00:02Z (12 s), because of step `fetch`: 404; "
        "what is still under way is cut off at 2026-01-15T10:01:02Z"
    )


def test_cleanup_after_a_failure_waits_for_the_end_of_a_pause() -> None:
    reasons = why(scene([ExecutionPaused(BEGIN + 7203)], [ExecutionEnding("failed", BEGIN + 62)]))
    assert [one.code for one in reasons] == ["paused", "ending"]
    assert reasons[1].message.endswith("its cleanup waits for the pause to end")


def test_an_ended_execution_says_how() -> None:
    done = reason([ExecutionFinished("completed")])
    assert (done.code, done.message) == ("ended", "it has ended: completed at 2026-01-15T10:00:02Z after 1 s")
    broken = ErrorInfo("x", "client_error", "404", detail={"step_id": "fetch"})
    failed = reason([ExecutionFinished("failed", error=broken)])
    assert failed.message.endswith("after 1 s, because of step `fetch`: 404")
    assert failed.step_id == "fetch"
    dropped = reason([ExecutionFinished("cancelled")], held=True)
    assert dropped.message == "it has ended: cancelled at 2026-01-15T10:00:02Z"


@pytest.mark.parametrize(
    ("inbox", "said"),
    [
        (None, "and no orchestrator has begun it yet"),
        (Inbox(230, is_held=True), "no orchestrator has begun it yet: 230 messages of its partition are not read yet"),
        (Inbox(1, is_held=False), "and no orchestrator serves its partition right now"),
    ],
)
def test_an_execution_without_a_log_says_who_has_not_read_its_request(inbox: Inbox | None, said: str) -> None:
    created = datetime.fromtimestamp(BEGIN, UTC)
    row = {**EXECUTIONS.new_row((ID,)), "status": "pending", "created_at": created}
    found = why(Scene(row, [], DEFINITION, datetime.fromtimestamp(BEGIN + 3, UTC), inbox=inbox))
    assert [one.code for one in found] == ["accepted"]
    assert found[0].message.startswith("it was accepted at 2026-01-15T10:00:00Z (3 s ago), ")
    assert found[0].message.endswith(said)


@pytest.mark.parametrize(
    ("inbox", "said"),
    [
        (None, "(12 s); an orchestrator looks"),
        (Inbox(7, is_held=True), "and 7 messages of its partition are not read yet; an orchestrator looks"),
        (Inbox(7, is_held=False), "and no orchestrator serves its partition right now; an orchestrator looks"),
    ],
)
def test_when_nothing_is_under_way_the_last_event_is_told(inbox: Inbox | None, said: str) -> None:
    found = reason([StepScheduled("fetch", 1)], [StepCompleted("fetch", 1)], inbox=inbox, last_event="`step.completed`")
    assert found.code == "nothing_under_way"
    assert "the last event of its log is `step.completed`, since 2026-01-15T10:00:03Z" in found.message
    assert said in found.message


def test_what_waits_for_somebody_comes_first_and_the_queue_last() -> None:
    waits = StepWaiting("ok", BEGIN + 62, reason="approval")
    codes = [one.code for one in why(scene([StepQueued("pause"), StepScheduled("fetch", 1), waits]))]
    assert codes == ["approval", "handed_out", "place"]


def test_only_so_many_steps_are_explained_one_by_one() -> None:
    reasons = why(scene([StepScheduled(f"step-{number}", 1) for number in range(REASONS_MAX + 3)]))
    assert (len(reasons), reasons[-1].message) == (REASONS_MAX + 1, "3 more of its steps are under way")


@given(st.integers(0, 2**32), st.booleans())
def test_there_is_always_a_reason(seed: int, known: bool) -> None:
    log = random_log(Random(seed))
    view = ExecutionView()
    for transition in log:
        view.apply(transition)
        assert view.execution is not None
        now = datetime.fromtimestamp(transition.at + 1, UTC)
        steps = [row for row in view.steps if row["item"] < 0]
        items = [row for row in view.steps if row["item"] >= 0]
        reasons = why(Scene(view.execution, steps, DEFINITION if known else None, now, items=items))
        assert reasons
        assert all(one.message and one.code for one in reasons)
        assert (reasons[0].code == "ended") == (view.execution["final_status"] is not None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.04, "0 s"),
        (0.4, "0.4 s"),
        (9.96, "10 s"),
        (119, "119 s"),
        (303, "5 min 3 s"),
        (300, "5 min"),
        (3 * 3600 + 300, "3 h 5 min"),
        (3 * 86_400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_spans_show_the_digits_that_matter(seconds: float, text: str) -> None:
    assert span(seconds) == text
