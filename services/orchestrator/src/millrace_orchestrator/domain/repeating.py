"""Loops: whether an iteration that completed is the last one."""

from __future__ import annotations

from typing import Any

from millrace_orchestrator.domain.binding import unit_scope
from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.plan import PlannedRepeat, PlannedStep
from millrace_orchestrator.domain.scope import value_of
from millrace_orchestrator.domain.settling import completed, fail, settled
from millrace_shared.expressions.errors import ExpressionError
from millrace_shared.messages import ErrorInfo, StepCancelled, StepIterated, StepQueued, StepWaiting
from millrace_shared.values import Payload


def iterated(
    draft: Draft,
    step: PlannedStep,
    repeat: PlannedRepeat,
    item: int | None,
    output: Payload,
    recorded: dict[str, Any],
    *,
    cached: bool,
) -> None:
    """An iteration completed with `output`: complete the unit with it, or have another iteration follow."""
    iteration = draft.state.step(step.id).unit(item).iteration + 1
    try:
        scope = unit_scope(draft, step, item) | {"output": value_of(output, draft.loaded)}
        done = repeat.until.test(scope, draft.evaluate)
    except ExpressionError as error:
        fail(draft, step, item, ErrorInfo("expression_error", "expression_error", str(error)), **recorded)
        return
    if done or (iteration >= repeat.max and not repeat.fails_at_max):
        completed(draft, step, item, output, cached=cached, **recorded)
    elif iteration >= repeat.max:
        problem = f"after {iteration} iterations {repeat.until.expression.source} is still false"
        fail(draft, step, item, ErrorInfo("repeat_exhausted", "repeat_exhausted", problem), **recorded)
    else:
        draft.emit(StepIterated(step.id, iteration, item=item, output=output, cached=cached, **recorded))
        _go_on(draft, step, repeat, item)


def _go_on(draft: Draft, step: PlannedStep, repeat: PlannedRepeat, item: int | None) -> None:
    if not draft.may_start(step):
        draft.emit(StepCancelled(step.id, item=item, reason="the execution is ending"))
        settled(draft, step, item)
    elif repeat.delay_s > 0:
        draft.emit(StepWaiting(step.id, draft.now + repeat.delay_s, item=item))
    else:
        draft.emit(StepQueued(step.id, item))
