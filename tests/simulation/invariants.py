"""What must hold of every log, whatever happened on the way."""

from __future__ import annotations

from collections import Counter

from world import World

from millrace_orchestrator.domain.evolve import fold
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import SETTLED
from millrace_shared.messages import (
    Event,
    ExecutionAdmitted,
    ExecutionEnding,
    ExecutionFinished,
    ExecutionHeld,
    ExecutionPaused,
    ExecutionResumed,
    ExecutionStarted,
    SignalReceived,
    StepCancelled,
    StepCompleted,
    StepDeferred,
    StepExpanded,
    StepFailed,
    StepIterated,
    StepResult,
    StepRetryScheduled,
    StepReused,
    StepScheduled,
    StepSkipped,
    StepWaiting,
    Transition,
)

Unit = tuple[str, int | None]

TOLD_WITHIN_S = 120.0
"""Whoever dies or is stopped on the way, a parent knows this soon that a child has ended."""

_SETTLING = (StepCompleted, StepFailed, StepSkipped, StepCancelled, StepReused)
_BEGINNING = (StepScheduled, StepExpanded, StepCompleted, StepWaiting, StepReused)


def check(plan: Plan, log: list[Transition]) -> None:
    """Raise AssertionError, saying what does not hold, for the log of an execution that should have ended."""
    assert log, "lost: an accepted execution has no log"
    assert [transition.version for transition in log] == list(range(1, len(log) + 1)), "versions have gaps"
    events = events_of(log)
    assert isinstance(events[0], ExecutionStarted), "the log does not begin with the start"
    assert isinstance(events[-1], ExecutionFinished), f"stuck: the last event is {events[-1]}"
    assert sum(isinstance(event, ExecutionFinished) for event in events) == 1, "it finished more than once"
    state = fold(plan, log)
    assert state.finished
    assert state.running == 0, f"{state.running} attempts are still counted as running"
    assert not state.queue, "something is still queued"
    for step_id in plan.steps:
        assert state.step(step_id).status in SETTLED, f"{step_id} is {state.step(step_id).status} at the end"
    _Reading(plan).read(events)
    for step_id in reused_by(events[0]):
        assert not any(isinstance(event, StepScheduled) and event.step == step_id for event in events), (
            f"{step_id} was paid again"
        )


def check_dropped(plan: Plan, log: list[Transition], result: StepResult) -> None:
    """Raise AssertionError when a result that nothing followed from is one that the log waits for."""
    work = fold(plan, log).step(result.step).unit(result.item)
    waits = work.status == "running" and work.attempt == result.attempt
    assert not waits, f"the result of {result.step} attempt {result.attempt} was dropped"


def check_family(world: World) -> None:
    """Raise AssertionError when children and parents do not agree about one another."""
    scheduled: dict[str, tuple[str, StepScheduled]] = {}
    for execution_id in world.logs:
        for event in events_of(world.read(execution_id)):
            if isinstance(event, StepScheduled) and event.child:
                assert event.child not in scheduled, f"child {event.child} was scheduled twice"
                scheduled[event.child] = (execution_id, event)
    for child_id, (parent_id, event) in scheduled.items():
        log = world.read(child_id)
        assert log, f"skipped child: {event.step} of {parent_id} has none, although it was scheduled"
        end = events_of(log)[-1]
        assert isinstance(end, ExecutionFinished), f"an orphan: child {child_id} goes on"
        silent_s = _left_at(world.read(parent_id), event) - log[-1].at
        assert silent_s < TOLD_WITHIN_S, f"{event.step} of {parent_id} knew nothing of its child's end for {silent_s} s"
        taken = [
            one
            for one in events_of(world.read(parent_id))
            if isinstance(one, StepCompleted | StepIterated)
            and (one.step, one.item, one.attempt) == (event.step, event.item, event.attempt)
        ]
        for one in taken:
            assert end.status == "completed", f"{event.step} completed, and its child is {end.status}"
            assert one.output == end.output, f"{event.step} has another output than its child"
    for execution_id, request in world.requests.items():
        if request.parent is not None:
            assert execution_id in scheduled, f"{execution_id} is nobody's child"


def _left_at(log: list[Transition], scheduled: StepScheduled) -> float:
    """Return when a parent left the attempt that a child performs: by its result, or cancelled."""
    unit = (scheduled.step, scheduled.item)
    for transition in log:
        for event in transition.events:
            is_result = isinstance(event, StepCompleted | StepIterated | StepFailed | StepRetryScheduled | StepDeferred)
            is_of_unit = (getattr(event, "step", ""), getattr(event, "item", None)) == unit
            is_meant = isinstance(event, StepCancelled) or (is_result and event.attempt == scheduled.attempt)
            if is_of_unit and is_meant:
                return transition.at
    return log[-1].at


def check_gates(world: World) -> None:
    """Raise AssertionError when more executions were past a gate at once than its limit."""
    moments: dict[str, list[tuple[float, int]]] = {}
    limits: dict[str, int] = {}
    for execution_id in world.requests:
        plan, inside = world.plan(execution_id), ""
        for transition in world.read(execution_id):
            for event in transition.events:
                if isinstance(event, ExecutionAdmitted) and plan.gates[-1].rule == "concurrency":
                    inside, limits[event.gate] = event.gate, plan.gates[-1].limit
                    moments.setdefault(inside, []).append((transition.at, 1))
                elif isinstance(event, ExecutionFinished) and inside:
                    moments[inside].append((transition.at, -1))
    for gate, changes in moments.items():
        count = 0
        for _, change in sorted(changes):
            count += change
            assert count <= limits[gate], f"{count} executions past gate {gate} at once; the limit is {limits[gate]}"


def events_of(log: list[Transition]) -> list[Event]:
    """Return the events of a log in order."""
    return [event for transition in log for event in transition.events]


def reused_by(event: ExecutionStarted) -> list[str]:
    """Return the steps whose output an execution brings along."""
    steps = (event.request.reuse.data or {"steps": {}}).get("steps", {})
    return [step_id for step_id, step in steps.items() if step.get("output") is not None]


class _Reading:
    """Reads a log from its first event to its last, and knows what may come next."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.settled: set[Unit] = set()
        self.scheduled: Counter[tuple[str, int | None, int]] = Counter()
        self.running: set[Unit] = set()
        self.of_step: Counter[str] = Counter()
        self.signals: Counter[str] = Counter()
        self.ending = False
        self.may_begin = True

    def read(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case ExecutionHeld() | ExecutionPaused():
                    self.may_begin = False
                case ExecutionAdmitted() | ExecutionResumed():
                    self.may_begin = True
                case ExecutionEnding():
                    self.ending = True
                    self.may_begin |= event.outcome != "failed"
                case SignalReceived():
                    self.signals[event.id] += 1
                    assert self.signals[event.id] == 1, f"signal {event.id} was received twice"
                case _:
                    self._step(event)

    def _step(self, event: Event) -> None:
        if isinstance(event, StepScheduled):
            self._begin(event)
        if isinstance(event, _BEGINNING):
            for need in self.plan.steps[event.step].needs:
                assert (need, None) in self.settled, f"{event.step} went ahead of its need {need}"
        if isinstance(event, StepCompleted) and event.signal:
            assert self.signals.pop(event.signal, 0), f"{event.step} took a signal that was not there"
        if isinstance(event, StepIterated):
            repeat = self.plan.steps[event.step].repeat
            assert repeat is not None, f"{event.step} has no loop"
            assert event.iteration < repeat.max, f"{event.step} goes on after {event.iteration} of {repeat.max}"
        if isinstance(event, (*_SETTLING, StepRetryScheduled, StepDeferred, StepIterated)):
            self._leave(event)

    def _begin(self, event: StepScheduled) -> None:
        plan, unit = self.plan, (event.step, event.item)
        self.scheduled[*unit, event.attempt] += 1
        assert self.scheduled[*unit, event.attempt] == 1, f"dispatched twice: {unit} attempt {event.attempt}"
        assert not self.ending or plan.steps[event.step].is_cleanup, f"{unit} started, and the execution was ending"
        assert self.may_begin, f"{unit} started although the execution was held or paused"
        assert unit not in self.settled, f"{unit} started again"
        self.running.add(unit)
        self.of_step[event.step] += 1
        assert len(self.running) <= plan.max_parallel, f"{len(self.running)} at once; the limit is {plan.max_parallel}"
        if event.item is not None:
            limit = plan.steps[event.step].max_parallel
            assert self.of_step[event.step] <= limit, f"{self.of_step[event.step]} items of {event.step}, of {limit}"

    def _leave(self, event: Event) -> None:
        unit = (event.step, getattr(event, "item", None))  # type: ignore[union-attr]
        assert unit not in self.settled, f"settled twice: {unit}"
        if unit in self.running:
            self.running.remove(unit)
            self.of_step[unit[0]] -= 1
        if isinstance(event, _SETTLING):
            self.settled.add(unit)


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
