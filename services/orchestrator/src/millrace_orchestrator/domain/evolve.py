"""What an event does to the state: `evolve(plan, state, event) -> state`, and the fold of a whole log.

Everything that the state says follows from events and the plan alone, so whoever folds the same log has the same
state. Events of steps are applied in `evolve_steps.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from millrace_orchestrator.domain.errors import ImpossibleTransition, NotStarted
from millrace_orchestrator.domain.evolve_steps import STEP_HANDLERS, Handler, leave_queue, with_unit
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import PAUSES_REMEMBERED, ExecutionState, Pause, Work
from millrace_shared import messages
from millrace_shared.messages import Event, Transition


def fold(plan: Plan, transitions: Iterable[Transition], state: ExecutionState | None = None) -> ExecutionState:
    """Return the state that a log leads to.

    Raises:
        NotStarted: the log is empty, or does not begin with `execution.started`.
        ImpossibleTransition: the log is not one of this plan.
    """
    for transition in transitions:
        for event in transition.events:
            state = evolve(plan, state, event, transition.at)
        state = advance(state, transition.version)
    if state is None:
        raise NotStarted("the log is empty")
    return state


def advance(state: ExecutionState | None, version: int) -> ExecutionState:
    """Return the state after the transition `version` has been applied as a whole."""
    if state is None:
        raise NotStarted("the log does not begin with execution.started")
    return replace(state, version=version)


def evolve(plan: Plan, state: ExecutionState | None, event: Event, at: float) -> ExecutionState:
    """Return the state after `event`, decided at `at` (Unix seconds).

    Raises:
        ImpossibleTransition: the event does not apply.
        NotStarted: there is no state yet, and the event is not `execution.started`.
    """
    if isinstance(event, messages.ExecutionStarted):
        if state is not None:
            raise ImpossibleTransition(f"execution {state.execution_id} has started already")
        return ExecutionState(request=event.request, deadline=event.deadline, started_at=at)
    if state is None:
        raise NotStarted("the log does not begin with execution.started")
    if state.finished:
        raise ImpossibleTransition(f"execution {state.execution_id} has finished; nothing follows that")
    return _HANDLERS[type(event)](plan, state, event, at)


def _held(_: Plan, state: ExecutionState, event: messages.ExecutionHeld, _at: float) -> ExecutionState:
    return replace(state, gates=(*state.gates, event), is_held=True)


def _admitted(_: Plan, state: ExecutionState, event: messages.ExecutionAdmitted, at: float) -> ExecutionState:
    state = replace(state, is_held=False)
    return state if event.deadline is None else _with_own_deadline(state, event.deadline, at)


def _paused(_: Plan, state: ExecutionState, event: messages.ExecutionPaused, at: float) -> ExecutionState:
    pause = Pause(event.id, since=at, deadline=state.deadline)
    ids = (*state.pause_ids, event.id)[-PAUSES_REMEMBERED:]
    return replace(state, pause=pause, pause_ids=ids, is_paused=True, deadline=event.deadline)


def _resumed(_: Plan, state: ExecutionState, event: messages.ExecutionResumed, at: float) -> ExecutionState:
    assert state.pause is not None
    return replace(_with_own_deadline(state, event.deadline, at), is_paused=False, deadline=event.deadline)


def _with_own_deadline(state: ExecutionState, deadline: float, at: float) -> ExecutionState:
    """Set the execution's own deadline. What waits as long as it may last waits as long as it may last now.

    A pause keeps putting it off: what was left of it `at` that moment is what is left when the pause ends.
    """
    before = state.own_deadline
    with state.steps.mutate() as steps:
        for step_id, step in state.steps.items():
            if step.is_expanded:
                items = step.items
                for item, work in step.items.items():
                    if _waits_until(work, before):
                        items = items.set(item, replace(work, due=deadline))
                steps[step_id] = replace(step, items=items)
            elif _waits_until(step.work, before):
                steps[step_id] = replace(step, work=replace(step.work, due=deadline))
        state = replace(state, steps=steps.finish())
    if state.pause is not None and state.is_paused:
        return replace(state, pause=replace(state.pause, since=at, deadline=deadline))
    return replace(state, deadline=deadline)


def _waits_until(work: Work, deadline: float) -> bool:
    """Whether a unit waits for somebody as long as the execution may last. A retry or a delay has a time of its own."""
    return work.status == "waiting" and work.due == deadline and work.waits_for in {"signal", "approval", "breakpoint"}


def _signalled(_: Plan, state: ExecutionState, event: messages.SignalReceived, _at: float) -> ExecutionState:
    return replace(state, signals=(*state.signals, event), signal_ids=state.signal_ids.set(event.id, True))


def _cancel_requested(
    _: Plan, state: ExecutionState, event: messages.ExecutionCancelRequested, _at: float
) -> ExecutionState:
    return replace(state, cancel_id=event.id)


def _ending(plan: Plan, state: ExecutionState, event: messages.ExecutionEnding, at: float) -> ExecutionState:
    """Nothing new starts but cleanup, so the other `for_each` steps leave the queue with the items they have begun.

    A failure leaves a pause in place, so that somebody may look before cleanup runs. A cancel or a timeout ends it.
    """
    for step_id, item in list(state.queue.values()):
        step = state.step(step_id)
        if item is None and step.is_expanded and not plan.steps[step_id].is_cleanup:
            state, work = leave_queue(state, step.work)
            state = with_unit(state, step_id, None, step, work)
    state = _with_own_deadline(state, event.deadline, at)
    is_paused = state.is_paused and event.outcome == "failed"
    deadline = state.deadline if is_paused else event.deadline
    return replace(state, outcome=event.outcome, error=event.error, deadline=deadline, is_paused=is_paused)


def _finished(_: Plan, state: ExecutionState, event: messages.ExecutionFinished, at: float) -> ExecutionState:
    return replace(state, outcome=event.status, error=event.error, output=event.output, finished=True, finished_at=at)


_HANDLERS: dict[type, Handler] = {
    messages.ExecutionHeld: _held,
    messages.ExecutionAdmitted: _admitted,
    messages.ExecutionPaused: _paused,
    messages.ExecutionResumed: _resumed,
    messages.SignalReceived: _signalled,
    messages.ExecutionCancelRequested: _cancel_requested,
    messages.ExecutionEnding: _ending,
    messages.ExecutionFinished: _finished,
    **STEP_HANDLERS,
}
