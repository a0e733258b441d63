"""Steps that wait for time, for a signal or for a person: nobody performs them, and every wait has an end.

A signal that comes before anybody waits for it is kept, and taken by the next step that does. A verdict is for one
step. When the time is up, a signal's default or an approval's stands in; without one the step times out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from millrace_orchestrator.domain.deferring import answer
from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.plan import PlannedStep
from millrace_orchestrator.domain.settling import complete, fail
from millrace_orchestrator.domain.state import Unit
from millrace_shared.definition.limits import DURATION_S_MAX
from millrace_shared.expressions.errors import ExpressionError
from millrace_shared.expressions.template import Resolved
from millrace_shared.messages import Answer, ErrorInfo, SignalReceived, SignalRequest, StepWaiting, VerdictRequest
from millrace_shared.values import Payload

SIGNALS_MAX = 1_000
"""Signals that one execution takes in all. Further ones change nothing."""


def begin_wait(draft: Draft, step: PlannedStep, item: int | None, resolved: Resolved) -> None:
    """Begin a `wait` step: one for a signal that has come already is over at once."""
    if step.signal is None:
        reason, until = _wait_until(resolved.data, draft.now)
        draft.emit(StepWaiting(step.id, until, item=item, reason=reason))  # type: ignore[arg-type]
        return
    timeout_s = resolved.data.get("timeout")
    until = draft.state.deadline if timeout_s is None else draft.now + float(timeout_s)
    draft.emit(StepWaiting(step.id, until, item=item, reason="signal", signal=step.signal))
    kept = next((signal for signal in draft.state.signals if signal.name == step.signal), None)
    if kept is not None:
        complete(draft, step, item, kept.data, signal=kept.id)


def begin_approval(draft: Draft, step: PlannedStep, item: int | None, resolved: Resolved) -> None:
    """Ask for a verdict."""
    assert step.approval is not None
    deadline_s = step.approval.deadline
    until = draft.state.deadline if deadline_s is None else draft.now + deadline_s
    question = Payload(resolved.data, resolved.refs)
    draft.emit(StepWaiting(step.id, until, item=item, reason="approval", input=question))


def over(draft: Draft, step: PlannedStep, item: int | None) -> None:
    """The time of a waiting step is up."""
    if step.approval is not None:
        _nobody_decided(draft, step, item)
    elif step.signal is None:
        complete(draft, step, item, Payload({"waited_until": _rfc3339(draft.now)}))
    elif step.signal_default is not None:
        complete(draft, step, item, Payload(step.signal_default[0]))
    else:
        problem = f"the signal {step.signal} did not come in time"
        fail(draft, step, item, ErrorInfo("signal_timeout", "timeout", problem))


def take_signal(draft: Draft, message: SignalRequest) -> None:
    """A signal came: the first step that waits for it takes it, else it is kept."""
    state = draft.state
    if message.id in state.signal_ids or len(state.signal_ids) >= SIGNALS_MAX:
        return
    draft.emit(SignalReceived(message.id, message.name, message.data, message.requested_by))
    waiting = _first_waiting(draft, message.name)
    if waiting is not None:
        step_id, item = waiting
        complete(draft, draft.plan.steps[step_id], item, message.data, signal=message.id)


def give_verdict(draft: Draft, message: VerdictRequest) -> None:
    """Somebody decided. Only the first verdict on a step that waits for one counts."""
    step = draft.plan.steps.get(message.step)
    if step is None:
        return
    work = draft.state.step(step.id).unit(message.item)
    if work.status != "waiting" or work.waits_for != "approval":
        return
    if step.approval is None:  # one of its attempts asks, and goes on with the answer
        by, note = message.requested_by, message.note
        answer(
            draft, step, message.item, Answer(work.ask, message.approved, draft.now, by, note, message.data, message.id)
        )
        return
    output = _verdict(draft, message.approved, message.requested_by, message.note, message.id)
    if message.data.refs:
        refs = {f"/data{pointer}": reference for pointer, reference in message.data.refs.items()}
        payload = Payload(output | {"data": message.data.data}, refs)
    else:
        payload = Payload(output | {"data": message.data.data})
    if message.approved or step.approval.on_reject == "complete":
        complete(draft, step, message.item, payload)
    else:
        _reject(draft, step, message.item, f"{message.requested_by or 'somebody'} rejected it", output)


def _nobody_decided(draft: Draft, step: PlannedStep, item: int | None) -> None:
    assert step.approval is not None
    default = step.approval.default
    if default == "fail":
        problem = "nobody approved or rejected it in time"
        fail(draft, step, item, ErrorInfo("approval_timeout", "timeout", problem))
        return
    approved = default == "approve"
    output = _verdict(draft, approved, "", "nobody decided in time: the default holds", "")
    if approved or step.approval.on_reject == "complete":
        complete(draft, step, item, Payload(output | {"data": None}))
    else:
        _reject(draft, step, item, "nobody approved it in time", output)


def _verdict(draft: Draft, approved: bool, by: str, note: str, decision_id: str) -> dict[str, Any]:
    return {"approved": approved, "by": by, "at": _rfc3339(draft.now), "note": note, "decision_id": decision_id}


def _reject(draft: Draft, step: PlannedStep, item: int | None, problem: str, verdict: dict[str, Any]) -> None:
    note = f": {verdict['note']}" if verdict["note"] else ""
    fail(draft, step, item, ErrorInfo("approval_rejected", "rejected", f"{problem}{note}", detail=verdict))


def _first_waiting(draft: Draft, name: str) -> Unit | None:
    """Return the unit that waits for a signal, the first in the author's order. Looks only at steps that may."""
    for step in draft.plan.steps.values():
        if step.signal != name:
            continue
        state = draft.state.step(step.id)
        for item in range(state.next_item) if state.is_expanded else (None,):
            work = state.unit(item)
            if work.status == "waiting" and work.waits_for == "signal":
                return step.id, item
    return None


def _wait_until(wait: dict[str, Any], now: float) -> tuple[str, float]:
    """Return what a `wait` step waits for, and when it is over, in Unix seconds."""
    if wait.get("delay") is not None:
        return "delay", now + float(wait["delay"])
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
    return "until", max(now, moment.timestamp())


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
