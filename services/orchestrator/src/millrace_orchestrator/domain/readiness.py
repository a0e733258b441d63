"""When a step runs, is skipped, or waits for its turn.

`consider` is called for a step whenever one of its needs has settled; it acts once the last one has, unless a pause or
a gate is in the way. Then, in this order: what an earlier execution has of it, the run rule, the condition, a
breakpoint, and the kind. A `transform` is decided on the spot, `wait` and `approval` wait, everything else is handed to
a runner, or to a child execution, as soon as there is a free place.
"""

from __future__ import annotations

from millrace_orchestrator.domain.binding import items_of, unit_scope
from millrace_orchestrator.domain.cache import cache_key
from millrace_orchestrator.domain.children import ChildRefused, brought_along, check_child, planned
from millrace_orchestrator.domain.deferring import time_is_up
from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.edited import mistake_in
from millrace_orchestrator.domain.plan import PlannedStep
from millrace_orchestrator.domain.reuse import item_output, reused_step, source_of
from millrace_orchestrator.domain.scope import scope_of, value_of
from millrace_orchestrator.domain.settling import complete, completed, fail, item_settled, settled
from millrace_orchestrator.domain.state import StepState, Work
from millrace_orchestrator.domain.waiting import begin_approval, begin_wait, over
from millrace_shared.expressions.errors import ExpressionError
from millrace_shared.expressions.template import Resolved
from millrace_shared.ids import attempt_key, child_execution_id
from millrace_shared.messages import (
    ErrorInfo,
    StepExpanded,
    StepQueued,
    StepReused,
    StepScheduled,
    StepSkipped,
    StepWaiting,
)
from millrace_shared.values import BlobRef, Payload

SCHEDULED_PER_DECISION_MAX = 1_000
"""Attempts that one decision hands out, so that a transition fits into a message. The next result goes on."""


def consider(draft: Draft, step_id: str) -> None:
    """Start, skip or fail a step if all its needs have settled and it has not been looked at before."""
    step = draft.plan.steps[step_id]
    state = draft.state.step(step_id)
    if state.status != "pending" or state.needs_settled < len(step.needs) or not draft.state.may_begin:
        return
    if not draft.may_start(step):
        _skip(draft, step, f"the execution is ending: {draft.state.outcome}")
        return
    reused = reused_step(draft, step_id)
    if reused is not None and reused.output is not None:
        draft.emit(StepReused(step_id, source_of(draft), output=reused.output))
        settled(draft, step, None)
        return
    reason = rule_against(step, state)
    if reason is not None:
        _skip(draft, step, reason)
        return
    try:
        if step.when is not None and not step.when.test(
            scope_of(draft.plan, draft.state, draft.loaded), draft.evaluate
        ):
            _skip(draft, step, f"its condition is false: {step.when.expression.source}")
        elif has_breakpoint(draft, step):
            _hold(draft, step)
        else:
            begin(draft, step)
    except ExpressionError as error:
        fail(draft, step, None, expression_failed(error))


def rule_against(step: PlannedStep, state: StepState) -> str | None:
    """Return why the run rule says that the step does not run, or None when it runs."""
    match step.run:
        case "always":
            return None
        case "on_failure":
            return None if state.needs_failed else "none of its needs failed"
        case "strict":
            return None if state.needs_completed == len(step.needs) else "not all of its needs completed"
        case "default":
            if state.needs_failed:
                return "one of its needs failed"
            if step.needs and not state.needs_completed:
                return "all of its needs were skipped"
            return None


def has_breakpoint(draft: Draft, step: PlannedStep) -> bool:
    """Whether a step is to be held before it begins."""
    breakpoints = draft.state.request.breakpoints
    return step.id in breakpoints or "*" in breakpoints


def begin(draft: Draft, step: PlannedStep) -> None:
    """Begin a step, or expand it into its items.

    Raises:
        ExpressionError, BlobNeeded: its list cannot be read.
    """
    if step.for_each is None:
        begin_unit(draft, step, None)
        return
    values = items_of(draft, step)
    draft.emit(StepExpanded(step.id, len(values)))
    if not values:
        completed(draft, step, None, Payload([]))


def begin_unit(draft: Draft, step: PlannedStep, item: int | None) -> None:
    """Begin a unit at once if it needs no place, or one is free; else queue it."""
    if step.performer == "nobody" or (not draft.state.queue and has_free_place(draft)):
        _schedule(draft, step, item)
    else:
        draft.emit(StepQueued(step.id, item))


def fill(draft: Draft) -> None:
    """Hand out queued work while there are free places."""
    while draft.state.queue and has_free_place(draft):
        step_id, item = draft.state.queue[draft.state.queue_head]
        state = draft.state.step(step_id)
        if item is None and state.is_expanded:
            item = state.next_item
            output = item_output(draft, step_id, item)
            if output is not None:
                draft.emit(StepReused(step_id, source_of(draft), item=item, output=output))
                item_settled(draft, draft.plan.steps[step_id])
                continue
        _schedule(draft, draft.plan.steps[step_id], item)


def has_free_place(draft: Draft) -> bool:
    """Whether another attempt may be handed out now."""
    state = draft.state
    return state.may_begin and state.running < draft.plan.max_parallel and draft.scheduled < SCHEDULED_PER_DECISION_MAX


def resume(draft: Draft, step: PlannedStep, item: int | None) -> None:
    """A waiting unit is due: what it waited for is over, or it gets its next attempt."""
    if step.performer == "nobody":
        over(draft, step, item)
    else:
        time_is_up(draft, step, item)


def expression_failed(error: ExpressionError) -> ErrorInfo:
    """Return an expression's failure as the error of what needed its value."""
    return ErrorInfo(code="expression_error", category="expression_error", message=str(error))


def _hold(draft: Draft, step: PlannedStep) -> None:
    """Hold a step before it begins, and show what it would begin with."""
    if step.for_each is not None:
        shown = Payload({"items": len(items_of(draft, step))})
        draft.emit(StepWaiting(step.id, draft.state.deadline, reason="breakpoint", input=shown))
        return
    resolved = _resolve(draft, step, None)
    draft.emit(
        StepWaiting(
            step.id,
            draft.state.deadline,
            reason="breakpoint",
            input=Payload(resolved.data, resolved.refs),
            secrets=resolved.secrets,
        )
    )


def _schedule(draft: Draft, step: PlannedStep, item: int | None) -> None:
    """Begin a unit's next attempt. Its input is resolved once, for the first of each iteration."""
    work = draft.state.step(step.id).unit(item)
    attempt = work.attempt + 1
    if work.attempt > work.base:
        draft.scheduled += 1
        child = _child(draft, step, item, attempt) if step.performer == "child" else ""
        draft.emit(StepScheduled(step.id, attempt, item=item, child=child, crowded=draft.crowded))
        return
    try:
        resolved = _resolve(draft, step, item)
        mistake = mistake_in(step, resolved) if work.is_resolved else None
        if mistake is not None:
            fail(draft, step, item, ErrorInfo("input_invalid", "client_error", mistake))
            return
        _first_attempt(draft, step, item, work, resolved)
    except ExpressionError as error:
        fail(draft, step, item, expression_failed(error))
    except ChildRefused as refused:
        fail(draft, step, item, refused.error)


def _first_attempt(draft: Draft, step: PlannedStep, item: int | None, work: Work, resolved: Resolved) -> None:
    payload = Payload(resolved.data, resolved.refs)
    match step.kind:
        case "transform":
            complete(draft, step, item, payload)
        case "wait":
            begin_wait(draft, step, item, resolved)
        case "approval":
            begin_approval(draft, step, item, resolved)
        case "workflow" | "group" | "plan":
            check_child(draft, step)
            digest = ""
            if step.kind == "plan":
                digest, payload = planned(draft, resolved)
            attempt = work.attempt + 1
            child = _child(draft, step, item, attempt)
            reuse = brought_along(draft, step) if step.for_each is None and attempt == 1 else Payload()
            draft.scheduled += 1
            draft.emit(StepScheduled(step.id, attempt, item=item, input=payload, child=child, plan=digest, reuse=reuse))
        case _:
            draft.scheduled += 1
            draft.emit(
                StepScheduled(
                    step.id,
                    work.attempt + 1,
                    item=item,
                    input=payload,
                    secrets=resolved.secrets,
                    cache=cache_key(draft, step, item, resolved),
                    crowded=draft.crowded,
                )
            )


def _child(draft: Draft, step: PlannedStep, item: int | None, attempt: int) -> str:
    return child_execution_id(draft.state.execution_id, attempt_key(step.id, item, attempt))


def _resolve(draft: Draft, step: PlannedStep, item: int | None) -> Resolved:
    """Return the input of a unit; the one that was settled at a breakpoint if it was held there."""
    work = draft.state.step(step.id).unit(item)
    if not work.is_resolved:
        return step.template.resolve(unit_scope(draft, step, item), draft.evaluate)
    value = value_of(work.input, draft.loaded)
    if isinstance(value, BlobRef):
        return Resolved(None, {"": value}, work.secrets)
    if isinstance(value, Payload):
        return Resolved(value.data, value.refs, work.secrets)
    return Resolved(value, {}, work.secrets)


def _skip(draft: Draft, step: PlannedStep, reason: str) -> None:
    draft.emit(StepSkipped(step.id, reason))
    draft.worklist.extend(step.children)
