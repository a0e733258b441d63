"""What an execution may use: its own bounds and those of everything above it.

The ledger of the runners reserves before each call and knows of all that run in parallel. Here is what holds without
it: the sum of what was reported.
"""

from __future__ import annotations

from decimal import Decimal

from millrace_orchestrator.domain.plan import Plan, PlannedStep
from millrace_orchestrator.domain.state import ExecutionState
from millrace_shared.definition.model import Budget
from millrace_shared.messages import BudgetScope


def scopes(plan: Plan, state: ExecutionState, step: PlannedStep) -> tuple[BudgetScope, ...]:
    """Return the budgets that hold for a call of `step`, the innermost first.

    A group or a plan has the limits of its workflow: the execution that they were written for counts for it, too.
    """
    request = state.request
    own = [_scope(f"{request.execution_id}/{step.id}", step.budget)]
    if request.parent is None or not request.parent.inline:
        own.append(_scope(request.execution_id, plan.definition.limits))
    return (*(scope for scope in own if scope is not None), *request.budgets)


def remaining_usd(plan: Plan, state: ExecutionState) -> Decimal | None:
    """Return what may still be spent, in US dollars; None without a limit."""
    limits = plan.definition.limits
    own = limits.max_cost_usd if limits.on_breach == "stop" else None
    bounds = [state.request.budget_usd, None if own is None else Decimal(str(own))]
    known = [bound for bound in bounds if bound is not None]
    return max(Decimal(0), min(known) - (state.spent.cost_usd or Decimal(0))) if known else None


def exhausted(plan: Plan, state: ExecutionState) -> str | None:
    """Return which bound leaves nothing for another call; None while there is room, or a breach does not stop."""
    limits, spent = plan.definition.limits, state.spent
    left = remaining_usd(plan, state)
    if left is not None and left <= 0:
        return f"the execution has spent {spent.cost_usd} US dollars, which is its budget"
    if limits.on_breach != "stop":
        return None
    tokens = spent.input_tokens + spent.output_tokens
    if limits.max_tokens is not None and tokens >= limits.max_tokens:
        return f"the execution has used {tokens} tokens, and its budget is {limits.max_tokens}"
    if limits.max_calls is not None and spent.calls >= limits.max_calls:
        return f"the execution has made {spent.calls} calls to models, and its budget is {limits.max_calls}"
    return None


def _scope(scope_id: str, budget: Budget | None) -> BudgetScope | None:
    if budget is None or not budget.is_bounded:
        return None
    cost = None if budget.max_cost_usd is None else Decimal(str(budget.max_cost_usd))
    return BudgetScope(scope_id, cost, budget.max_tokens, budget.max_calls, budget.on_breach)
