"""Attempts that give their place back: for tokens, for a budget, or because they ask people something.

Nothing is held meanwhile. The next attempt of the same conversation goes on when the time has come, or the answer.
"""

from __future__ import annotations

from typing import Any

from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.plan import PlannedStep
from millrace_orchestrator.domain.settling import fail
from millrace_shared.definition.limits import DURATION_S_MAX
from millrace_shared.messages import Answer, Deferral, DeferralReason, ErrorInfo, StepAnswered, StepDeferred, StepQueued

DEFERRALS_MAX = 1_000
"""How often the attempts of one iteration give their place back; then the unit fails."""

PATIENT_AFTER = 20
PATIENCE_S_MAX = 60.0

_CATEGORIES: dict[DeferralReason, str] = {
    "tokens": "llm_rate_limit",
    "budget": "budget_exceeded",
    "approval": "timeout",
}


def defer(draft: Draft, step: PlannedStep, item: int | None, deferral: Deferral, recorded: dict[str, Any]) -> None:
    """An attempt ended without a result, and goes on later; one that may not begin again fails."""
    work = draft.state.step(step.id).unit(item)
    category = _CATEGORIES[deferral.reason]
    if not draft.may_start(step):
        problem = f"it would have waited ({deferral.detail or deferral.reason}), and the execution is ending"
        fail(draft, step, item, ErrorInfo("deferred_at_end", category, problem), **recorded)
        return
    if work.deferred >= DEFERRALS_MAX:
        problem = f"it gave its place back {DEFERRALS_MAX} times ({deferral.detail or deferral.reason})"
        fail(draft, step, item, ErrorInfo("deferred_too_often", category, problem), **recorded)
        return
    draft.emit(
        StepDeferred(
            step.id,
            until=min(max(deferral.until, draft.now + _patience_s(work.deferred)), draft.now + DURATION_S_MAX),
            reason=deferral.reason,
            detail=deferral.detail,
            ask=deferral.ask,
            question=deferral.question,
            item=item,
            **recorded,
        )
    )


def _patience_s(deferrals: int) -> float:
    """Return the least pause: who was turned away again and again looks less often, a second less each time."""
    return min(PATIENCE_S_MAX, max(0.0, deferrals - PATIENT_AFTER))


def answer(draft: Draft, step: PlannedStep, item: int | None, given: Answer) -> None:
    """A question has its answer: the unit gets its next attempt."""
    draft.emit(StepAnswered(step.id, given, item=item))
    draft.emit(StepQueued(step.id, item))


def time_is_up(draft: Draft, step: PlannedStep, item: int | None) -> None:
    """What a deferred unit waited for has come, or nobody has answered its question."""
    work = draft.state.step(step.id).unit(item)
    if work.waits_for == "approval":
        unanswered = Answer(work.ask, approved=False, at=draft.now, note="nobody answered in time")
        draft.emit(StepAnswered(step.id, unanswered, item=item))
    draft.emit(StepQueued(step.id, item))
