"""What a message leads to: `decide(plan, state, message, ...) -> Decision`.

A decision is the events that follow from one message, and the state after them. A message that no longer applies (a
late result, a repeated start, a timer of an attempt that is over) leads to no events: duplicates are harmless here,
so nothing upstream needs to be exactly once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from millrace_orchestrator.domain import ending, steering
from millrace_orchestrator.domain.budgets import exhausted
from millrace_orchestrator.domain.deferring import defer
from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.plan import Plan, PlannedStep
from millrace_orchestrator.domain.readiness import consider, fill, resume
from millrace_orchestrator.domain.repeating import iterated
from millrace_orchestrator.domain.retry import next_attempt_at
from millrace_orchestrator.domain.scope import Loaded, value_of
from millrace_orchestrator.domain.settling import completed, fail, refused
from millrace_orchestrator.domain.state import HELD_S_MAX, ExecutionState
from millrace_orchestrator.domain.waiting import give_verdict, take_signal
from millrace_shared.definition.inputs import InputInvalid, complete_input
from millrace_shared.expressions.errors import BlobNeeded, ExpressionError
from millrace_shared.expressions.program import Evaluate, Program
from millrace_shared.ids import attempt_key
from millrace_shared.messages import (
    Admission,
    CancelRequest,
    ContinueRequest,
    ErrorInfo,
    Event,
    ExecutionFinished,
    ExecutionStarted,
    InboxMessage,
    PauseRequest,
    ResumeRequest,
    SignalRequest,
    StartRequest,
    StepResult,
    StepRetryScheduled,
    TimerFired,
    VerdictRequest,
)
from millrace_shared.values import BlobRef, Payload


@dataclass(frozen=True, slots=True)
class Decision:
    """The events of one message, and the state after them. No events: the message changes nothing.

    `definitions` are canonical documents by content hash, which must be stored before the events are.
    """

    events: tuple[Event, ...]
    state: ExecutionState | None
    definitions: dict[str, bytes] = field(default_factory=dict)


def decide(
    plan: Plan,
    state: ExecutionState | None,
    message: InboxMessage,
    now: float,
    evaluate: Evaluate,
    loaded: Loaded,
    memo: dict[str, list[Any]],
    *,
    crowded: bool = False,
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
        crowded: the workspace has more than its share of work under way.

    Raises:
        BlobNeeded: expressions look into values that are not in `loaded`: load them and decide again.
    """
    draft = Draft(plan, state, now, evaluate, loaded, memo, crowded)
    if isinstance(message, StartRequest):
        _start(draft, message)
    elif state is not None and not state.finished:
        _HANDLERS[type(message)](draft, message)
        if draft.events:
            _proceed(draft)
    return Decision(tuple(draft.events), draft.state_or_none, draft.definitions)


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
    plan, problem = draft.plan, None
    if message.parent is not None and not message.parent.inline:
        message, problem = _checked(draft, message)
    time_s = HELD_S_MAX if plan.gates else plan.timeout_s
    limit = draft.now + time_s if message.deadline is None else min(draft.now + time_s, message.deadline)
    draft.emit(ExecutionStarted(message, deadline=limit))
    if problem is not None:
        ending.begin(draft, "failed", problem, stop_cleanup=True)
    elif plan.gates:
        steering.enter(draft)
    else:
        draft.worklist.extend(plan.roots)
    _proceed(draft)


def _checked(draft: Draft, message: StartRequest) -> tuple[StartRequest, ErrorInfo | None]:
    """Check the input that a parent gives, and fill in what it leaves out. The api has done so for all others.

    Raises:
        BlobNeeded: a part of it that has a schema is claim-checked.
    """
    definition, given = draft.plan.definition, message.input
    if not definition.inputs and not given.data:
        return message, None
    value = value_of(given, draft.loaded)
    if isinstance(value, BlobRef):
        raise BlobNeeded(frozenset((value,)))
    if isinstance(value, Payload):
        raise BlobNeeded(frozenset(value.refs.values()))
    try:
        complete_value = complete_input(definition, value)
    except InputInvalid as error:
        return message, ErrorInfo("input_invalid", "client_error", f"its input is refused: {error}")
    if not given.refs and complete_value == given.data:
        return message, None
    return msgspec.structs.replace(message, input=Payload(complete_value)), None


def _result(draft: Draft, message: StepResult) -> None:
    if not _is_current(draft, message.step, message.item, message.attempt):
        return
    step = draft.plan.steps[message.step]
    recorded: dict[str, Any] = {
        "attempt": message.attempt,
        "started_at": message.started_at,
        "finished_at": message.finished_at,
        "usage": message.usage,
        "runner": message.runner,
    }
    if message.deferred is not None:
        defer(draft, step, message.item, message.deferred, recorded)
        _check_budget(draft)
        return
    error = message.error or refused(draft, step, message.output)
    if error is not None:
        _failed_attempt(draft, step, message.item, error, recorded)
    elif step.repeat is not None:
        iterated(draft, step, step.repeat, message.item, message.output, recorded, cached=message.cached)
    else:
        completed(draft, step, message.item, message.output, cached=message.cached, scores=message.scores, **recorded)
    _check_budget(draft)


def _check_budget(draft: Draft) -> None:
    """End the execution when all that it may use is used, and there is more to do.

    That a single call fits is the runners' affair, and so is every other answer to a breach than to stop.
    """
    if not draft.state.spent.calls or draft.state.settled == len(draft.plan.steps):
        return
    problem = exhausted(draft.plan, draft.state)
    if problem is not None:
        ending.begin(draft, "failed", ErrorInfo("budget_exceeded", "budget_exceeded", problem))


def _failed_attempt(
    draft: Draft, step: PlannedStep, item: int | None, error: ErrorInfo, recorded: dict[str, Any]
) -> None:
    attempt = recorded["attempt"]
    if draft.may_start(step):
        seed = f"{draft.state.execution_id}/{attempt_key(step.id, item, attempt)}"
        work = draft.state.step(step.id).unit(item)
        tried = attempt - work.base - work.deferred
        at = next_attempt_at(step.retry, tried, error, draft.now, seed)
        if at is not None:
            draft.emit(StepRetryScheduled(step.id, at=at, error=error, item=item, **recorded))
            return
    fail(draft, step, item, error, **recorded)


def _timer(draft: Draft, message: TimerFired) -> None:
    state = draft.state
    if message.kind == "execution_timeout":
        if draft.now >= state.deadline:
            ending.time_out(draft)
        return
    work = state.step(message.step).unit(message.item)
    is_due = work.status == "waiting" and work.waits_for != "breakpoint" and draft.now >= work.due
    if is_due and work.attempt == message.attempt:
        resume(draft, draft.plan.steps[message.step], message.item)


def _cancel(draft: Draft, message: CancelRequest) -> None:
    if draft.state.cancel_id != message.id:
        ending.cancel(draft, message)


def _is_current(draft: Draft, step_id: str, item: int | None, attempt: int) -> bool:
    """The fence of results: only the attempt that runs now may speak for its unit."""
    if step_id not in draft.plan.steps:
        return False
    step = draft.state.step(step_id)
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
    StepResult: _result,
    TimerFired: _timer,
    CancelRequest: _cancel,
    PauseRequest: steering.pause,
    ResumeRequest: steering.resume,
    ContinueRequest: steering.go_on,
    Admission: steering.admission,
    SignalRequest: take_signal,
    VerdictRequest: give_verdict,
}
