"""Steering a run from outside: gates of flow control, pauses, and going on from a breakpoint."""

from __future__ import annotations

from millrace_orchestrator.domain import ending
from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.gates import REFUSALS
from millrace_orchestrator.domain.readiness import begin, begin_unit, expression_failed
from millrace_orchestrator.domain.scope import scope_of
from millrace_orchestrator.domain.settling import fail
from millrace_orchestrator.domain.state import HELD_S_MAX
from millrace_shared.expressions.errors import ExpressionError
from millrace_shared.messages import (
    Admission,
    ContinueRequest,
    ErrorInfo,
    ExecutionAdmitted,
    ExecutionHeld,
    ExecutionPaused,
    ExecutionResumed,
    PauseRequest,
    ResumeRequest,
    StepWaiting,
)
from millrace_shared.values import is_null_at


def enter(draft: Draft) -> None:
    """Come to the next gate; once past the last one, begin."""
    state = draft.state
    if len(state.gates) == len(draft.plan.gates):
        look_at_everything(draft)
        return
    rule = draft.plan.gates[len(state.gates)]
    try:
        key = rule.key_of(scope_of(draft.plan, state, draft.loaded), draft.evaluate)
    except ExpressionError as error:
        ending.begin(draft, "failed", expression_failed(error), stop_cleanup=True)
        return
    gate = rule.gate(state.request, key)
    draft.emit(ExecutionHeld(gate.id, rule.rule, key))


def admission(draft: Draft, message: Admission) -> None:
    """A gate lets the execution pass, or turns it away."""
    state = draft.state
    if not state.is_held or state.gates[-1].gate != message.gate:
        return
    if not message.admitted:
        rule = draft.plan.gates[len(state.gates) - 1].rule
        ending.begin(draft, "cancelled", ErrorInfo(REFUSALS[rule], "cancelled", message.reason), stop_cleanup=True)
        return
    is_last = len(state.gates) == len(draft.plan.gates)
    deadline = draft.latest(draft.now + draft.plan.timeout_s) if is_last else None
    draft.emit(ExecutionAdmitted(message.gate, deadline=deadline))
    enter(draft)


def pause(draft: Draft, message: PauseRequest) -> None:
    """Let nothing new begin."""
    state = draft.state
    if state.is_paused or message.id in state.pause_ids:
        return
    deadline = draft.now + HELD_S_MAX
    draft.emit(ExecutionPaused(deadline, id=message.id, reason=message.reason, requested_by=message.requested_by))


def resume(draft: Draft, message: ResumeRequest) -> None:
    """Go on, with the time that was left before the pause."""
    state = draft.state
    if not state.is_paused or state.pause is None or message.of not in {"", state.pause.id}:
        return
    deadline = state.pause.deadline + draft.now - state.pause.since
    draft.emit(ExecutionResumed(deadline, id=message.id, requested_by=message.requested_by))
    look_at_everything(draft)


def go_on(draft: Draft, message: ContinueRequest) -> None:
    """Let a step that is held at a breakpoint begin, with another input if one is given.

    Secrets are shown as null, and stay where the new input has left it at that.
    """
    step = draft.plan.steps.get(message.step)
    if step is None or message.item is not None or draft.state.is_paused:
        return
    work = draft.state.step(step.id).work
    if work.status != "waiting" or work.waits_for != "breakpoint":
        return
    if message.edited and step.for_each is None:
        secrets = {at: text for at, text in work.secrets.items() if is_null_at(message.input.data, at)}
        draft.emit(StepWaiting(step.id, work.due, reason="breakpoint", input=message.input, secrets=secrets))
    try:
        if step.for_each is None:
            begin_unit(draft, step, None)
        else:
            begin(draft, step)
    except ExpressionError as error:
        fail(draft, step, None, expression_failed(error))


def look_at_everything(draft: Draft) -> None:
    """Look at every step that may have become ready while nothing was allowed to begin."""
    state = draft.state
    draft.worklist.extend(
        step_id
        for step_id, step in draft.plan.steps.items()
        if state.step(step_id).status == "pending" and state.step(step_id).needs_settled >= len(step.needs)
    )
