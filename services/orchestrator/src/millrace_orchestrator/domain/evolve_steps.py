"""What an event of a step, or of one of its items, does to the state: the counters and the queue are kept here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import UNTOUCHED_STEP, ExecutionState, StepState, StepStatus, Work
from millrace_orchestrator.domain.tables import FOR_EACH, UNIT, next_status
from millrace_orchestrator.domain.usage import add
from millrace_shared import messages

Handler = Callable[[Plan, ExecutionState, Any, float], ExecutionState]


def _queued(_: Plan, state: ExecutionState, event: messages.StepQueued, _at: float) -> ExecutionState:
    step = state.step(event.step)
    work = step.unit(event.item)
    status = next_status(UNIT, work.status, event, event.step)
    return _push(state, event.step, event.item, step, replace(work, status=status, due=0.0, waits_for=None))


def _expanded(_: Plan, state: ExecutionState, event: messages.StepExpanded, _at: float) -> ExecutionState:
    step = state.step(event.step)
    status = next_status(FOR_EACH, step.status, event, event.step)
    work = replace(step.work, status=status, due=0.0, waits_for=None)
    step = replace(step, count=event.count)
    if event.count == 0:
        return with_unit(state, event.step, None, step, work)
    return _push(state, event.step, None, step, work)


def _scheduled(plan: Plan, state: ExecutionState, event: messages.StepScheduled, at: float) -> ExecutionState:
    step = state.step(event.step)
    work = step.unit(event.item)
    status = next_status(UNIT, work.status, event, event.step)
    state, step = _take_item(plan, state, step, event.step, event.item)
    state, work = leave_queue(state, work)
    if event.attempt == work.base + 1:
        work = replace(
            work,
            input=event.input,
            secrets=event.secrets,
            plan=event.plan,
            cache=event.cache,
            reuse=event.reuse,
        )
    work = replace(work, status=status, attempt=event.attempt, due=0.0, waits_for=None, at=at, crowded=event.crowded)
    return replace(with_unit(state, event.step, event.item, step, work), running=state.running + 1)


def _take_item(
    plan: Plan, state: ExecutionState, step: StepState, step_id: str, item: int | None
) -> tuple[ExecutionState, StepState]:
    """Move a `for_each` on when `item` is its next; leave the queue when it was the last, or enough are under way."""
    if item is None or item != step.next_item:
        return state, step
    step = replace(step, next_item=step.next_item + 1, in_flight=step.in_flight + 1)
    if step.next_item < step.count and step.in_flight < plan.steps[step_id].max_parallel:
        return state, step
    state, whole = leave_queue(state, step.work)
    return state, replace(step, work=whole)


def _waiting(plan: Plan, state: ExecutionState, event: messages.StepWaiting, _at: float) -> ExecutionState:
    changes: dict[str, Any] = {"due": event.until, "waits_for": event.reason}
    if event.reason == "breakpoint":
        is_whole = plan.steps[event.step].for_each is not None
        changes |= {"input": event.input, "secrets": event.secrets, "is_resolved": not is_whole}
    elif event.reason == "approval":
        changes["input"] = event.input
    return _sleep(plan, state, event, **changes)


def _retry_scheduled(
    plan: Plan, state: ExecutionState, event: messages.StepRetryScheduled, _at: float
) -> ExecutionState:
    return _sleep(plan, add(state, event.usage), event, due=event.at, waits_for=None, error=event.error)


def _deferred(plan: Plan, state: ExecutionState, event: messages.StepDeferred, _at: float) -> ExecutionState:
    deferred = state.step(event.step).unit(event.item).deferred + 1
    changes = {"due": event.until, "waits_for": event.reason, "ask": event.ask, "deferred": deferred}
    return _sleep(plan, add(state, event.usage), event, **changes)


def _answered(plan: Plan, state: ExecutionState, event: messages.StepAnswered, at: float) -> ExecutionState:
    answers = (*state.step(event.step).unit(event.item).answers, event.answer)
    return _sleep(plan, state, event, due=at, waits_for=None, ask="", answers=answers)


def _sleep(
    plan: Plan,
    state: ExecutionState,
    event: messages.StepWaiting | messages.StepRetryScheduled | messages.StepDeferred | messages.StepAnswered,
    **changes: Any,
) -> ExecutionState:
    """Apply an event after which the unit waits: it no longer runs, and has not settled."""
    step = state.step(event.step)
    before = step.unit(event.item)
    status = next_status(UNIT, before.status, event, event.step)
    state, step = _take_item(plan, state, step, event.step, event.item)
    state = with_unit(state, event.step, event.item, step, replace(before, status=status, **changes))
    return replace(state, running=state.running - (before.status == "running"))


def _iterated(_: Plan, state: ExecutionState, event: messages.StepIterated, _at: float) -> ExecutionState:
    step = state.step(event.step)
    before = step.unit(event.item)
    work = replace(
        before,
        status=next_status(UNIT, before.status, event, event.step),
        base=before.attempt,
        deferred=0,
        answers=(),
        iteration=event.iteration,
        previous=event.output,
        input=messages.NOTHING,
        secrets={},
        is_resolved=False,
        error=None,
    )
    state = with_unit(add(state, event.usage), event.step, event.item, step, work)
    return replace(state, running=state.running - 1)


def _reused(plan: Plan, state: ExecutionState, event: messages.StepReused, _at: float) -> ExecutionState:
    return _settle(plan, state, event, output=event.output)


def _completed(plan: Plan, state: ExecutionState, event: messages.StepCompleted, _at: float) -> ExecutionState:
    if event.signal:
        state = replace(state, signals=tuple(one for one in state.signals if one.id != event.signal))
    return _settle(plan, add(state, event.usage), event, output=event.output)


def _failed(plan: Plan, state: ExecutionState, event: messages.StepFailed, _at: float) -> ExecutionState:
    return _settle(plan, add(state, event.usage), event, continued=event.continued, error=event.error)


def _skipped(plan: Plan, state: ExecutionState, event: messages.StepSkipped, _at: float) -> ExecutionState:
    return _settle(plan, state, event)


def _cancelled(plan: Plan, state: ExecutionState, event: messages.StepCancelled, _at: float) -> ExecutionState:
    return _settle(plan, state, event)


_Settling = (
    messages.StepReused | messages.StepCompleted | messages.StepFailed | messages.StepSkipped | messages.StepCancelled
)


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
    state, before = leave_queue(state, step.work if item is None else before)
    work = replace(before, status=status, due=0.0, waits_for=None, **changes)
    state = replace(state, running=state.running - (before.status == "running" and not whole))
    if item is not None:
        return _item_settled(plan, state, event.step, item, step, work)
    state = with_unit(state, event.step, None, replace(step, continued=continued), work)
    return _tell_children(plan, state, event.step, status, continued=continued)


def _item_settled(
    plan: Plan, state: ExecutionState, step_id: str, item: int, step: StepState, work: Work
) -> ExecutionState:
    step = replace(step, in_flight=step.in_flight - 1, items_settled=step.items_settled + 1)
    state = with_unit(state, step_id, item, step, work)
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


def with_unit(state: ExecutionState, step_id: str, item: int | None, step: StepState, work: Work) -> ExecutionState:
    """Return the state with `work` as the work of a step, or of one of its items."""
    step = replace(step, work=work) if item is None else replace(step, items=step.items.set(item, work))
    return replace(state, steps=state.steps.set(step_id, step))


def _push(state: ExecutionState, step_id: str, item: int | None, step: StepState, work: Work) -> ExecutionState:
    """Put a unit at the end of the queue for free places."""
    position = state.queue_tail
    state = with_unit(state, step_id, item, step, replace(work, queue_position=position))
    return replace(state, queue=state.queue.set(position, (step_id, item)), queue_tail=position + 1)


def leave_queue(state: ExecutionState, work: Work) -> tuple[ExecutionState, Work]:
    """Take a unit out of the queue, if it is in it."""
    if work.queue_position < 0:
        return state, work
    queue = state.queue.delete(work.queue_position)
    head = state.queue_head
    while head < state.queue_tail and head not in queue:
        head += 1
    return replace(state, queue=queue, queue_head=head), replace(work, queue_position=-1)


STEP_HANDLERS: dict[type, Handler] = {
    messages.StepQueued: _queued,
    messages.StepExpanded: _expanded,
    messages.StepScheduled: _scheduled,
    messages.StepWaiting: _waiting,
    messages.StepIterated: _iterated,
    messages.StepRetryScheduled: _retry_scheduled,
    messages.StepDeferred: _deferred,
    messages.StepAnswered: _answered,
    messages.StepReused: _reused,
    messages.StepCompleted: _completed,
    messages.StepFailed: _failed,
    messages.StepSkipped: _skipped,
    messages.StepCancelled: _cancelled,
}
