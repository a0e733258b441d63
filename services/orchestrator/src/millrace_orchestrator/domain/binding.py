"""What the templates of a unit see: the execution, its item under `for_each`, and its iteration under `repeat`."""

from __future__ import annotations

from typing import Any

from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.plan import PlannedStep
from millrace_orchestrator.domain.scope import scope_of, value_of
from millrace_shared.definition.limits import FOR_EACH_ITEMS_MAX
from millrace_shared.expressions.errors import BlobNeeded, ExpressionError
from millrace_shared.expressions.paths import type_name
from millrace_shared.values import put_at


def unit_scope(draft: Draft, step: PlannedStep, item: int | None) -> dict[str, Any]:
    """Return the root names of the expressions of a unit.

    Raises:
        ExpressionError, BlobNeeded: its list cannot be read.
    """
    bound = None if item is None else (item, items_of(draft, step)[item])
    scope = scope_of(draft.plan, draft.state, draft.loaded, bound)
    if step.repeat is not None:
        work = draft.state.step(step.id).unit(item)
        scope["iteration"] = work.iteration + 1
        scope["previous"] = value_of(work.previous, draft.loaded)
    return scope


def items_of(draft: Draft, step: PlannedStep) -> list[Any]:
    """Return the list that a `for_each` runs over. It is the same at each call: what it reads has settled.

    Raises:
        ExpressionError, BlobNeeded: it cannot be read, is no list, or too long.
    """
    known = draft.memo.get(step.id)
    if known is not None:
        return known
    assert step.for_each is not None
    resolved = step.for_each.resolve(scope_of(draft.plan, draft.state, draft.loaded), draft.evaluate)
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
