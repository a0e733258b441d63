"""What an event does to the state: `evolve(plan, state, event) -> state`, and the fold of a whole log.

Everything that the state says follows from events and the plan alone, so whoever folds the same log has the same
state. Counters (`running`, `settled`, a step's settled needs) are kept here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from millrace_orchestrator.domain.errors import ImpossibleTransition, NotStarted
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import UNTOUCHED_STEP, ExecutionState, StepState, StepStatus, Work
from millrace_orchestrator.domain.tables import FOR_EACH, UNIT, next_status
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
    return _HANDLERS[type(event)](plan, state, event)


def _cancel_requested(_: Plan, state: ExecutionState, event: messages.ExecutionCancelRequested) -> ExecutionState:
    return replace(state, cancel_id=event.id)


def _ending(plan: Plan, state: ExecutionState, event: messages.ExecutionEnding) -> ExecutionState:
    """Nothing new starts but cleanup, so the other `for_each` steps leave the queue with the items they have begun."""
    for step_id, item in list(state.queue.values()):
        step = state.step(step_id)
        if item is None and step.is_expanded and not plan.steps[step_id].is_cleanup:
            state, work = _pop(state, step.work)
            state = _with_unit(state, step_id, None, step, work)
    return replace(state, outcome=event.outcome, error=event.error, deadline=event.deadline)


def _finished(_: Plan, state: ExecutionState, event: messages.ExecutionFinished) -> ExecutionState:
    return replace(state, outcome=event.status, error=event.error, finished=True)


def _queued(_: Plan, state: ExecutionState, event: messages.StepQueued) -> ExecutionState:
    step = state.step(event.step)
    work = step.unit(event.item)
    status = next_status(UNIT, work.status, event, event.step)
    return _push(state, event.step, event.item, step, replace(work, status=status, due=0.0))


def _expanded(_: Plan, state: ExecutionState, event: messages.StepExpanded) -> ExecutionState:
    step = state.step(event.step)
    status = next_status(FOR_EACH, step.status, event, event.step)
    work = replace(step.work, status=status)
    step = replace(step, count=event.count)
    if event.count == 0:
        return _with_unit(state, event.step, None, step, work)
    return _push(state, event.step, None, step, work)


def _scheduled(plan: Plan, state: ExecutionState, event: messages.StepScheduled) -> ExecutionState:
    step = state.step(event.step)
    work = step.unit(event.item)
    status = next_status(UNIT, work.status, event, event.step)
    state, step = _take_item(plan, state, step, event.step, event.item)
    state, work = _pop(state, work)
    if event.attempt == 1:
        work = replace(work, input=event.input, secrets=event.secrets)
    work = replace(work, status=status, attempt=event.attempt, due=0.0)
    return replace(_with_unit(state, event.step, event.item, step, work), running=state.running + 1)


def _take_item(
    plan: Plan, state: ExecutionState, step: StepState, step_id: str, item: int | None
) -> tuple[ExecutionState, StepState]:
    """Move a `for_each` on when `item` is its next; leave the queue when it was the last, or enough are under way."""
    if item is None or item != step.next_item:
        return state, step
    step = replace(step, next_item=step.next_item + 1, in_flight=step.in_flight + 1)
    if step.next_item < step.count and step.in_flight < plan.steps[step_id].max_parallel:
        return state, step
    state, whole = _pop(state, step.work)
    return state, replace(step, work=whole)


def _waiting(plan: Plan, state: ExecutionState, event: messages.StepWaiting) -> ExecutionState:
    return _sleep(plan, state, event, due=event.until)


def _retry_scheduled(plan: Plan, state: ExecutionState, event: messages.StepRetryScheduled) -> ExecutionState:
    return _sleep(plan, state, event, due=event.at, error=event.error)


def _sleep(
    plan: Plan,
    state: ExecutionState,
    event: messages.StepWaiting | messages.StepRetryScheduled,
    **changes: Any,
) -> ExecutionState:
    """Apply an event after which the unit waits: it no longer runs, and has not settled."""
    step = state.step(event.step)
    before = step.unit(event.item)
    status = next_status(UNIT, before.status, event, event.step)
    state, step = _take_item(plan, state, step, event.step, event.item)
    state = _with_unit(state, event.step, event.item, step, replace(before, status=status, **changes))
    return replace(state, running=state.running - (before.status == "running"))


def _completed(plan: Plan, state: ExecutionState, event: messages.StepCompleted) -> ExecutionState:
    return _settle(plan, state, event, output=event.output)


def _failed(plan: Plan, state: ExecutionState, event: messages.StepFailed) -> ExecutionState:
    return _settle(plan, state, event, continued=event.continued, error=event.error)


def _skipped(plan: Plan, state: ExecutionState, event: messages.StepSkipped) -> ExecutionState:
    return _settle(plan, state, event)


def _cancelled(plan: Plan, state: ExecutionState, event: messages.StepCancelled) -> ExecutionState:
    return _settle(plan, state, event)


_Settling = messages.StepCompleted | messages.StepFailed | messages.StepSkipped | messages.StepCancelled


def _settle(
    plan: Plan, state: ExecutionState, event: _Settling, *, continued: bool = False, **changes: Any
) -> ExecutionState:
    """Apply an event after which a unit, or a whole step, never changes again."""
    item = None if isinstance(event, messages.StepSkipped) else event.item
    step = state.step(event.step)
    before = step.unit(item)
    whole = item is None and step.is_expanded
    status = next_status(FOR_EACH if whole else UNIT, before.status, event, event.step)
    state, step = _take_item(plan, state, step, event.step, item)
    state, before = _pop(state, step.work if item is None else before)
    work = replace(before, status=status, due=0.0, **changes)
    state = replace(state, running=state.running - (before.status == "running" and not whole))
    if item is not None:
        return _item_settled(plan, state, event.step, item, step, work)
    state = _with_unit(state, event.step, None, replace(step, continued=continued), work)
    return _tell_children(plan, state, event.step, status, continued=continued)


def _item_settled(
    plan: Plan, state: ExecutionState, step_id: str, item: int, step: StepState, work: Work
) -> ExecutionState:
    step = replace(step, in_flight=step.in_flight - 1, items_settled=step.items_settled + 1)
    state = _with_unit(state, step_id, item, step, work)
    may_start = state.outcome is None or plan.steps[step_id].is_cleanup
    if may_start and step.work.queue_position < 0 and step.next_item < step.count:
        step = state.step(step_id)
        return _push(state, step_id, None, step, step.work)
    return state


def _tell_children(
    plan: Plan, state: ExecutionState, step_id: str, status: StepStatus, *, continued: bool
) -> ExecutionState:
    with state.steps.mutate() as steps:
        for child in plan.steps[step_id].children:
            steps[child] = _need_settled(steps.get(child, UNTOUCHED_STEP), status, continued=continued)
        told = steps.finish()
    return replace(state, steps=told, settled=state.settled + 1)


def _need_settled(child: StepState, status: StepStatus, *, continued: bool) -> StepState:
    completed = status == "completed" or (continued and status in {"failed", "timeout"})
    failed = not completed and status != "skipped"
    return replace(
        child,
        needs_settled=child.needs_settled + 1,
        needs_completed=child.needs_completed + completed,
        needs_failed=child.needs_failed + failed,
    )


def _with_unit(state: ExecutionState, step_id: str, item: int | None, step: StepState, work: Work) -> ExecutionState:
    """Return the state with `work` as the work of a step, or of one of its items."""
    step = replace(step, work=work) if item is None else replace(step, items=step.items.set(item, work))
    return replace(state, steps=state.steps.set(step_id, step))


def _push(state: ExecutionState, step_id: str, item: int | None, step: StepState, work: Work) -> ExecutionState:
    """Put a unit at the end of the queue for free places."""
    position = state.queue_tail
    state = _with_unit(state, step_id, item, step, replace(work, queue_position=position))
    return replace(state, queue=state.queue.set(position, (step_id, item)), queue_tail=position + 1)


def _pop(state: ExecutionState, work: Work) -> tuple[ExecutionState, Work]:
    """Take a unit out of the queue, if it is in it."""
    if work.queue_position < 0:
        return state, work
    queue = state.queue.delete(work.queue_position)
    head = state.queue_head
    while head < state.queue_tail and head not in queue:
        head += 1
    return replace(state, queue=queue, queue_head=head), replace(work, queue_position=-1)


_HANDLERS: dict[type, Callable[[Plan, ExecutionState, Any], ExecutionState]] = {
    messages.ExecutionCancelRequested: _cancel_requested,
    messages.ExecutionEnding: _ending,
    messages.ExecutionFinished: _finished,
    messages.StepQueued: _queued,
    messages.StepExpanded: _expanded,
    messages.StepScheduled: _scheduled,
    messages.StepWaiting: _waiting,
    messages.StepRetryScheduled: _retry_scheduled,
    messages.StepCompleted: _completed,
    messages.StepFailed: _failed,
    messages.StepSkipped: _skipped,
    messages.StepCancelled: _cancelled,
}
