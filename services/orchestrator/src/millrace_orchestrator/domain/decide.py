"""What a message leads to: `decide(plan, state, message, ...) -> Decision`.

A decision is the events that follow from one message, and the state after them. A message that no longer applies (a
late result, a repeated start, a timer of an attempt that is over) leads to no events: duplicates are harmless here,
so nothing upstream needs to be exactly once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from millrace_orchestrator.domain import ending
from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.plan import Plan, PlannedStep
from millrace_orchestrator.domain.readiness import consider, fail, fill, resume, settled
from millrace_orchestrator.domain.retry import next_attempt_at
from millrace_orchestrator.domain.scope import Loaded
from millrace_orchestrator.domain.state import ExecutionState
from millrace_shared.expressions.errors import ExpressionError
from millrace_shared.expressions.program import Evaluate, Program
from millrace_shared.ids import attempt_key
from millrace_shared.messages import (
    CancelRequest,
    ErrorInfo,
    Event,
    ExecutionFinished,
    ExecutionStarted,
    InboxMessage,
    StartRequest,
    StepCompleted,
    StepResult,
    StepRetryScheduled,
    TimerFired,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """The events of one message, and the state after them. No events: the message changes nothing."""

    events: tuple[Event, ...]
    state: ExecutionState | None


def decide(
    plan: Plan,
    state: ExecutionState | None,
    message: InboxMessage,
    now: float,
    evaluate: Evaluate,
    loaded: Loaded,
    memo: dict[str, list[Any]],
) -> Decision:
    """Decide on one message.

    Args:
        plan: the definition version that the execution started with.
        state: the fold of its log; None when it has none.
        message: what arrived.
        now: Unix seconds.
        evaluate: evaluates CEL programs.
        loaded: claim-checked values that expressions look into.
        memo: keep one for each execution, empty at first; it saves reading the same `for_each` list again.

    Raises:
        BlobNeeded: expressions look into values that are not in `loaded`: load them and decide again.
    """
    draft = Draft(plan, state, now, evaluate, loaded, memo)
    _HANDLERS[type(message)](draft, message)
    return Decision(tuple(draft.events), draft.state_or_none)


def abandon(plan: Plan, state: ExecutionState | None, request: StartRequest, now: float, error: ErrorInfo) -> Decision:
    """End an execution that cannot go on, at once and without cleanup: something around it is broken."""

    def no_expressions(program: Program, _: dict[str, Any]) -> Any:
        raise ExpressionError(program.source, "the execution was abandoned")

    draft = Draft(plan, state, now, no_expressions, {}, {})
    if state is None:
        draft.emit(ExecutionStarted(request, deadline=now + plan.timeout_s))
    ending.abandon(draft, error)
    return Decision(tuple(draft.events), draft.state_or_none)


def stillborn(request: StartRequest, now: float, error: ErrorInfo) -> tuple[Event, ...]:
    """Return the whole log of an execution whose definition cannot be had."""
    return ExecutionStarted(request, deadline=now), ExecutionFinished("failed", error=error)


def _start(draft: Draft, message: StartRequest) -> None:
    if draft.state_or_none is not None:
        return
    draft.emit(ExecutionStarted(message, deadline=draft.now + draft.plan.timeout_s))
    draft.worklist.extend(draft.plan.roots)
    _proceed(draft)


def _result(draft: Draft, message: StepResult) -> None:
    if not _is_current(draft, message.step, message.item, message.attempt):
        return
    step = draft.plan.steps[message.step]
    recorded: dict[str, Any] = {
        "attempt": message.attempt,
        "item": message.item,
        "started_at": message.started_at,
        "finished_at": message.finished_at,
        "usage": message.usage,
        "runner": message.runner,
    }
    if message.error is None:
        draft.emit(StepCompleted(step.id, output=message.output, **recorded))
        settled(draft, step, message.item)
    else:
        _failed_attempt(draft, step, message.error, recorded)
    _proceed(draft)


def _failed_attempt(draft: Draft, step: PlannedStep, error: ErrorInfo, recorded: dict[str, Any]) -> None:
    item, attempt = recorded["item"], recorded["attempt"]
    if draft.may_start(step):
        seed = f"{draft.state.execution_id}/{attempt_key(step.id, item, attempt)}"
        at = next_attempt_at(step.retry, attempt, error, draft.now, seed)
        if at is not None:
            draft.emit(StepRetryScheduled(step.id, at=at, error=error, **recorded))
            return
    fail(draft, step, error=error, **recorded)


def _timer(draft: Draft, message: TimerFired) -> None:
    state = draft.state_or_none
    if state is None or state.finished:
        return
    if message.kind == "execution_timeout":
        if draft.now >= state.deadline:
            ending.time_out(draft)
            _proceed(draft)
        return
    work = state.step(message.step).unit(message.item)
    if work.status != "waiting" or work.attempt != message.attempt or draft.now < work.due:
        return
    resume(draft, draft.plan.steps[message.step], message.item)
    _proceed(draft)


def _cancel(draft: Draft, message: CancelRequest) -> None:
    state = draft.state_or_none
    if state is None or state.finished or state.cancel_id == message.id:
        return
    ending.cancel(draft, message)
    _proceed(draft)


def _is_current(draft: Draft, step_id: str, item: int | None, attempt: int) -> bool:
    """The fence of results: only the attempt that runs now may speak for its unit."""
    state = draft.state_or_none
    if state is None or state.finished:
        return False
    step = state.step(step_id)
    if item is None and step.is_expanded:  # the whole of a `for_each` step is never attempted, only its items
        return False
    work = step.unit(item)
    return work.status == "running" and work.attempt == attempt


def _proceed(draft: Draft) -> None:
    """Carry on until nothing more follows: settled steps make others ready, and these may settle at once."""
    fill(draft)
    while draft.worklist:
        while draft.worklist:
            consider(draft, draft.worklist.popleft())
        fill(draft)
    ending.finish_when_settled(draft)


_HANDLERS: dict[type, Callable[[Draft, Any], None]] = {
    StartRequest: _start,
    StepResult: _result,
    TimerFired: _timer,
    CancelRequest: _cancel,
}
