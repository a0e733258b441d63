"""When a step runs, is skipped, or waits for its turn.

`consider` is called for a step whenever one of its needs has settled; it acts once the last one has. Then, in this
order: the run rule, the condition, and the kind. A `transform` is decided on the spot, a `wait` sleeps, everything
else is handed to a runner as soon as there is a free place.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from millrace_orchestrator.domain import ending
from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.plan import PlannedStep
from millrace_orchestrator.domain.scope import scope_of
from millrace_orchestrator.domain.state import StepState
from millrace_shared.definition.limits import DURATION_S_MAX, FOR_EACH_ITEMS_MAX
from millrace_shared.expressions.errors import BlobNeeded, ExpressionError
from millrace_shared.expressions.paths import type_name
from millrace_shared.expressions.template import Resolved, Template
from millrace_shared.messages import (
    ErrorInfo,
    StepCompleted,
    StepExpanded,
    StepFailed,
    StepQueued,
    StepScheduled,
    StepSkipped,
    StepWaiting,
)
from millrace_shared.values import BlobRef, Payload, put_at

SCHEDULED_PER_DECISION_MAX = 1_000
"""Attempts that one decision hands out, so that a transition fits into a message. The next result goes on."""


def consider(draft: Draft, step_id: str) -> None:
    """Start, skip or fail a step if all its needs have settled and it has not been looked at before."""
    step = draft.plan.steps[step_id]
    state = draft.state.step(step_id)
    if state.status != "pending" or state.needs_settled < len(step.needs):
        return
    if not draft.may_start(step):
        _skip(draft, step, f"the execution is ending: {draft.state.outcome}")
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
            return
        _begin(draft, step)
    except ExpressionError as error:
        fail(draft, step, None, _expression_failed(error))


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


def fill(draft: Draft) -> None:
    """Hand out queued work while there are free places."""
    while draft.state.queue and has_free_place(draft):
        step_id, item = draft.state.queue[draft.state.queue_head]
        state = draft.state.step(step_id)
        if item is None and state.is_expanded:
            item = state.next_item
        _schedule(draft, draft.plan.steps[step_id], item)


def has_free_place(draft: Draft) -> bool:
    """Whether another attempt may be handed out now."""
    return draft.state.running < draft.plan.max_parallel and draft.scheduled < SCHEDULED_PER_DECISION_MAX


def resume(draft: Draft, step: PlannedStep, item: int | None) -> None:
    """A waiting unit is due: a `wait` step is over, anything else gets its next attempt."""
    if step.kind == "wait":
        draft.emit(StepCompleted(step.id, item=item, output=Payload({"waited_until": _rfc3339(draft.now)})))
        settled(draft, step, item)
    else:
        draft.emit(StepQueued(step.id, item))


def item_settled(draft: Draft, step: PlannedStep) -> None:
    """Settle a `for_each` step once its last item has; or, when no more may start, its last running one."""
    state = draft.state.step(step.id)
    if state.status != "running":
        return
    if state.items_settled == state.count and (step.continue_on_error or not ending.failed_item(state)):
        draft.emit(StepCompleted(step.id, output=_gathered(state)))
        draft.worklist.extend(step.children)
    elif state.items_settled == state.count or not draft.may_start(step):
        ending.settle_for_each(draft, step)


def _begin(draft: Draft, step: PlannedStep) -> None:
    if step.for_each is None:
        _begin_unit(draft, step, None)
        return
    values = _items(draft, step, step.for_each)
    draft.emit(StepExpanded(step.id, len(values)))
    if not values:
        draft.emit(StepCompleted(step.id, output=Payload([])))
        draft.worklist.extend(step.children)


def _begin_unit(draft: Draft, step: PlannedStep, item: int | None) -> None:
    if step.kind in {"transform", "wait"} or (not draft.state.queue and has_free_place(draft)):
        _schedule(draft, step, item)
    else:
        draft.emit(StepQueued(step.id, item))


def _schedule(draft: Draft, step: PlannedStep, item: int | None) -> None:
    """Begin a unit's next attempt. Its input is resolved once, for the first."""
    work = draft.state.step(step.id).unit(item)
    if work.attempt > 0:
        draft.scheduled += 1
        draft.emit(StepScheduled(step.id, work.attempt + 1, item=item))
        return
    try:
        resolved = _resolve(draft, step, step.template, item)
        _first_attempt(draft, step, item, resolved)
    except ExpressionError as error:
        fail(draft, step, item, _expression_failed(error))


def _first_attempt(draft: Draft, step: PlannedStep, item: int | None, resolved: Resolved) -> None:
    payload = Payload(resolved.data, resolved.refs)
    match step.kind:
        case "transform":
            draft.emit(StepCompleted(step.id, item=item, output=payload))
            settled(draft, step, item)
        case "wait":
            draft.emit(StepWaiting(step.id, _wait_until(resolved.data, draft.now), item=item))
        case _:
            draft.scheduled += 1
            draft.emit(StepScheduled(step.id, 1, item=item, input=payload, secrets=resolved.secrets))


def _resolve(draft: Draft, step: PlannedStep, template: Template, item: int | None) -> Resolved:
    bound = None
    if item is not None:
        assert step.for_each is not None
        bound = (item, _items(draft, step, step.for_each)[item])
    return template.resolve(scope_of(draft.plan, draft.state, draft.loaded, bound), draft.evaluate)


def _items(draft: Draft, step: PlannedStep, template: Template) -> list[Any]:
    """Return the list that a `for_each` runs over. It is the same at each call: what it reads has settled."""
    known = draft.memo.get(step.id)
    if known is not None:
        return known
    resolved = template.resolve(scope_of(draft.plan, draft.state, draft.loaded), draft.evaluate)
    values = resolved.data
    for pointer, reference in resolved.refs.items():
        if not pointer:
            raise BlobNeeded(frozenset((reference,)))
        values = put_at(values, pointer, reference)
    if not isinstance(values, list):
        raise ExpressionError("for_each", f"it must give a list, and gives {type_name(values)}")
    if len(values) > FOR_EACH_ITEMS_MAX:
        reason = f"it gives {len(values)} items; the limit is {FOR_EACH_ITEMS_MAX}: split the list into several steps"
        raise ExpressionError("for_each", reason)
    draft.memo[step.id] = values
    return values


def _gathered(state: StepState) -> Payload:
    """Return the outputs of all items in order. A failed item that was continued is null."""
    data: list[Any] = []
    refs: dict[str, BlobRef] = {}
    for index in range(state.count):
        output = state.unit(index).output
        data.append(output.data)
        for pointer, reference in output.refs.items():
            refs[f"/{index}{pointer}"] = reference
    return Payload(data, refs)


def settled(draft: Draft, step: PlannedStep, item: int | None) -> None:
    """A unit has settled: go on with its children, or with the rest of its `for_each`."""
    if item is None:
        draft.worklist.extend(step.children)
    else:
        item_settled(draft, step)


def fail(draft: Draft, step: PlannedStep, item: int | None, error: ErrorInfo, **recorded: Any) -> None:
    """Fail a unit for good, and with it the execution unless the step says `on_error: continue`."""
    draft.emit(StepFailed(step.id, error, item=item, continued=step.continue_on_error, **recorded))
    if not step.continue_on_error:
        ending.begin(draft, "failed", ending.error_of_step(step.id, item, error))
    settled(draft, step, item)


def _skip(draft: Draft, step: PlannedStep, reason: str) -> None:
    draft.emit(StepSkipped(step.id, reason))
    draft.worklist.extend(step.children)


def _expression_failed(error: ExpressionError) -> ErrorInfo:
    return ErrorInfo(code="expression_error", category="expression_error", message=str(error))


def _wait_until(wait: dict[str, Any], now: float) -> float:
    """Return when a `wait` step is over, in Unix seconds."""
    if wait.get("delay") is not None:
        return now + float(wait["delay"])
    until = wait["until"]
    try:
        moment = datetime.fromisoformat(until)
    except (TypeError, ValueError):
        raise ExpressionError("until", f"{until!r} is not an RFC 3339 time such as 2026-01-15T10:00:00Z") from None
    if moment.tzinfo is None:
        raise ExpressionError("until", f"{until!r} has no time zone; add Z for UTC")
    latest = now + DURATION_S_MAX
    if moment.timestamp() > latest:
        raise ExpressionError("until", f"{until} is more than {DURATION_S_MAX / 86400:.0f} days away")
    return max(now, moment.timestamp())


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
