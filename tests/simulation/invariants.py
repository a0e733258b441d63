"""What must hold of every log, whatever happened on the way."""

from __future__ import annotations

from collections import Counter

from millrace_orchestrator.domain.evolve import fold
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import SETTLED
from millrace_shared.messages import (
    Event,
    ExecutionEnding,
    ExecutionFinished,
    ExecutionStarted,
    StepCancelled,
    StepCompleted,
    StepExpanded,
    StepFailed,
    StepRetryScheduled,
    StepScheduled,
    StepSkipped,
    Transition,
)

_SETTLING = (StepCompleted, StepFailed, StepSkipped, StepCancelled)


def check(plan: Plan, log: list[Transition]) -> None:
    """Raise AssertionError, saying what does not hold, for the log of an execution that should have ended."""
    assert log, "lost: an accepted execution has no log"
    assert [transition.version for transition in log] == list(range(1, len(log) + 1)), "versions have gaps"
    events = [event for transition in log for event in transition.events]
    assert isinstance(events[0], ExecutionStarted), "the log does not begin with the start"
    assert isinstance(events[-1], ExecutionFinished), f"stuck: the last event is {events[-1]}"
    assert sum(isinstance(event, ExecutionFinished) for event in events) == 1, "it finished more than once"
    state = fold(plan, log)
    assert state.finished
    assert state.running == 0, f"{state.running} attempts are still counted as running"
    assert not state.queue, "something is still queued"
    for step_id in plan.steps:
        assert state.step(step_id).status in SETTLED, f"{step_id} is {state.step(step_id).status} at the end"
    _check_units(plan, events)


def _check_units(plan: Plan, events: list[Event]) -> None:
    settled: set[tuple[str, int | None]] = set()
    scheduled: Counter[tuple[str, int | None, int]] = Counter()
    running: set[tuple[str, int | None]] = set()
    of_step: Counter[str] = Counter()
    ending = False
    for event in events:
        if isinstance(event, ExecutionEnding):
            ending = True
        if isinstance(event, StepScheduled):
            unit = (event.step, event.item)
            scheduled[*unit, event.attempt] += 1
            assert scheduled[*unit, event.attempt] == 1, f"dispatched twice: {unit} attempt {event.attempt}"
            assert not ending or plan.steps[event.step].is_cleanup, f"{unit} started although the execution was ending"
            running.add(unit)
            of_step[event.step] += 1
            assert len(running) <= plan.max_parallel, f"{len(running)} at once; the limit is {plan.max_parallel}"
            if event.item is not None:
                limit = plan.steps[event.step].max_parallel
                assert of_step[event.step] <= limit, f"{of_step[event.step]} items of {event.step} at once, of {limit}"
        if isinstance(event, StepScheduled | StepExpanded | StepCompleted):
            for need in plan.steps[event.step].needs:
                assert (need, None) in settled, f"{event.step} went ahead of its need {need}"
        if isinstance(event, (*_SETTLING, StepRetryScheduled)):
            unit = (event.step, getattr(event, "item", None))
            assert unit not in settled, f"settled twice: {unit}"
            if unit in running:
                running.remove(unit)
                of_step[event.step] -= 1
            if isinstance(event, _SETTLING):
                settled.add(unit)


def expected_statuses(plan: Plan) -> dict[str, str]:
    """Say independently what becomes of each step when nothing fails and nobody interferes."""
    statuses: dict[str, str] = {}
    for step_id, step in plan.steps.items():
        needs = [statuses[need] for need in step.needs]
        match step.run:
            case "on_failure":
                runs = False
            case "strict":
                runs = all(need == "completed" for need in needs)
            case "default":
                runs = not needs or any(need == "completed" for need in needs)
            case "always":
                runs = True
        statuses[step_id] = "completed" if runs else "skipped"
    return statuses
