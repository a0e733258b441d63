"""How an execution comes to its end.

The first of failure, cancel and timeout settles the outcome. From then on only cleanup (`run: always` and, when
something failed, `run: on_failure`) may start. After a failure what runs may finish; after a cancel or a timeout it is
stopped. A second cancel, or the deadline of the ending itself, stops cleanup as well, so that every execution ends.
"""

from __future__ import annotations

from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.plan import PlannedStep
from millrace_orchestrator.domain.scope import scope_of
from millrace_orchestrator.domain.state import SETTLED, StepState, Work
from millrace_shared.expressions.errors import ExpressionError
from millrace_shared.messages import (
    CancelRequest,
    ErrorInfo,
    Event,
    ExecutionCancelRequested,
    ExecutionEnding,
    ExecutionFinished,
    FinalStatus,
    StepCancelled,
    StepFailed,
    StepSkipped,
)
from millrace_shared.values import Payload


def error_of_step(step_id: str, item: int | None, error: ErrorInfo) -> ErrorInfo:
    """Return a step's error as the execution's: it says which step it was."""
    detail = {"step_id": step_id} if item is None else {"step_id": step_id, "item": item}
    return ErrorInfo(code=error.code, category=error.category, message=error.message, detail=detail)


def begin(draft: Draft, outcome: FinalStatus, error: ErrorInfo, *, stop_cleanup: bool = False) -> None:
    """Settle the outcome, unless it is settled already, and whatever may no longer start.

    An execution that is still held at a gate has begun nothing, so there is nothing to clean up either.
    """
    if draft.state.outcome is not None:
        return
    stop_cleanup |= draft.state.is_held
    draft.emit(ExecutionEnding(outcome, deadline=draft.now + draft.plan.timeout_s, error=error))
    _sweep(draft, stop_running=outcome != "failed", stop_cleanup=stop_cleanup)


def cancel(draft: Draft, message: CancelRequest) -> None:
    """Stop the execution; if it is ending already, stop cleanup, too."""
    draft.emit(ExecutionCancelRequested(message.id, message.reason, message.requested_by))
    if draft.state.outcome is None:
        reason = f": {message.reason}" if message.reason else ""
        begin(
            draft,
            "cancelled",
            ErrorInfo("execution_cancelled", "cancelled", f"the execution was cancelled{reason}"),
        )
    else:
        _sweep(draft, stop_running=True, stop_cleanup=True)


def time_out(draft: Draft) -> None:
    """The deadline was reached: of the execution, or of its ending."""
    if draft.state.outcome is None:
        limit = f"the execution did not finish within its limit of {draft.plan.timeout_s:g} s"
        begin(draft, "timeout", ErrorInfo("execution_timeout", "timeout", limit))
    else:
        _sweep(draft, stop_running=True, stop_cleanup=True)


def abandon(draft: Draft, error: ErrorInfo) -> None:
    """End the execution now, whatever runs, cleanup included."""
    if draft.state.outcome is None:
        draft.emit(ExecutionEnding("failed", deadline=draft.now, error=error))
    _sweep(draft, stop_running=True, stop_cleanup=True)
    finish_when_settled(draft)


def finish_when_settled(draft: Draft) -> None:
    """End the execution once all of its steps have settled."""
    state = draft.state
    if state.settled < len(draft.plan.steps) or state.finished:
        return
    if state.outcome is not None:
        draft.emit(ExecutionFinished(state.outcome, error=state.error))
        return
    try:
        resolved = draft.plan.outputs.resolve(scope_of(draft.plan, state, draft.loaded), draft.evaluate)
    except ExpressionError as error:
        problem = ErrorInfo("expression_error", "expression_error", f"the outputs cannot be built: {error}")
        draft.emit(ExecutionFinished("failed", error=problem))
    else:
        draft.emit(ExecutionFinished("completed", output=Payload(resolved.data, resolved.refs)))


def failed_item(state: StepState) -> Work | None:
    """Return the first item that failed, or None."""
    for index in range(state.next_item):
        work = state.unit(index)
        if work.status in {"failed", "timeout"}:
            return work
    return None


def settle_for_each(draft: Draft, step: PlannedStep) -> None:
    """Settle a `for_each` step none of whose items is under way any more, and no more of which may start."""
    state = draft.state.step(step.id)
    if state.status != "running" or state.in_flight:
        return
    failed = failed_item(state)
    if failed is not None and failed.error is not None:
        draft.emit(StepFailed(step.id, failed.error, continued=step.continue_on_error))
    else:
        draft.emit(StepCancelled(step.id, reason=_reason(draft)))
    draft.worklist.extend(step.children)


def _sweep(draft: Draft, *, stop_running: bool, stop_cleanup: bool) -> None:
    """Settle every step that may no longer start, and with `stop_running` those that have."""
    for step in draft.plan.steps.values():
        if step.is_cleanup and not stop_cleanup:
            continue
        state = draft.state.step(step.id)
        if state.status in SETTLED:
            continue
        if state.is_expanded:
            for item in range(state.next_item):
                if _is_stopped(state.unit(item), stop_running=stop_running):
                    draft.emit(StepCancelled(step.id, item=item, reason=_reason(draft)))
            settle_for_each(draft, step)
        elif state.status == "pending":
            draft.emit(_never_started(draft, step))
            draft.worklist.extend(step.children)
        elif _is_stopped(state.work, stop_running=stop_running):
            draft.emit(StepCancelled(step.id, reason=_reason(draft)))
            draft.worklist.extend(step.children)


def _is_stopped(work: Work, *, stop_running: bool) -> bool:
    return work.status in {"queued", "waiting"} or (stop_running and work.status == "running")


def _never_started(draft: Draft, step: PlannedStep) -> Event:
    if draft.state.outcome == "failed":
        return StepSkipped(step.id, _reason(draft))
    return StepCancelled(step.id, reason=_reason(draft))


def _reason(draft: Draft) -> str:
    match draft.state.outcome:
        case "failed":
            return "the execution has failed"
        case "timeout":
            return "the execution has timed out"
        case _:
            return "the execution was cancelled"
