"""What an execution has spent: the sum of what its results, those of its children included, report."""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from millrace_orchestrator.domain.state import ExecutionState
from millrace_shared.messages import Usage


def add(state: ExecutionState, usage: Usage | None) -> ExecutionState:
    """Return the state after something used `usage`."""
    if usage is None:
        return state
    spent = state.spent
    known = [cost for cost in (spent.cost_usd, usage.cost_usd) if cost is not None]
    total = Usage(
        calls=spent.calls + usage.calls,
        input_tokens=spent.input_tokens + usage.input_tokens,
        output_tokens=spent.output_tokens + usage.output_tokens,
        cost_usd=sum(known, Decimal(0)) if known else None,
        unpriced=spent.unpriced + (usage.unpriced or (usage.calls if usage.cost_usd is None else 0)),
    )
    return replace(state, spent=total)
