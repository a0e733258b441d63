"""Budgets of the workspace and its workflows: list with what is used, save, remove."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from millrace_api.adapters.budgets import ANY, Bounds, Period
from millrace_api.domain.documents import decode
from millrace_api.domain.rendering import timestamp
from millrace_api.errors import Refused
from millrace_api.routes import shapes
from millrace_api.routes.exchange import LIMIT, PREFIX, Caller, Json, Limit, Skip, adapters, page, read_body
from millrace_shared.messages import BreachAction

router = APIRouter(prefix=PREFIX, tags=["budgets"])

BODY_BYTES_MAX = 16 * 1024
COST_USD_MAX = 10**9
COUNT_MAX = 10**15
_WORKFLOW = "Id or name of a workflow; without one, the budget is that of the whole workspace."


class BudgetSpec(BaseModel):
    """A budget; at least one of its three bounds is set."""

    model_config = ConfigDict(extra="forbid")

    workflow: str | None = Field(None, min_length=1, max_length=200, description=_WORKFLOW)
    period: Period = Field(description="Days and months are those of UTC.")
    max_cost_usd: float | None = Field(None, gt=0, le=COST_USD_MAX, description="US dollars.")
    max_tokens: int | None = Field(None, ge=1, le=COUNT_MAX, description="Of input and output.")
    max_calls: int | None = Field(None, ge=1, le=COUNT_MAX, description="To models.")
    on_breach: BreachAction = Field("stop", description="As in a definition.")


class Used(BaseModel):
    """US dollars, tokens and calls."""

    cost_usd: float
    tokens: int
    calls: int


class SavedBudget(BaseModel):
    """A budget, and what is used of it in the day or month that is now. Runners know of it within a few seconds.

    `reserved` is what calls that are being made may use at the most; `raises` is how often people have allowed the
    budget once more; `breached_at` is when a call did not fit for the first time.
    """

    workflow_id: str | None
    workflow: str | None
    period: Period
    max_cost_usd: float | None
    max_tokens: int | None
    max_calls: int | None
    on_breach: BreachAction
    spent: Used
    reserved: Used
    raises: int
    breached_at: datetime | None
    updated_at: datetime
    updated_by: str


class BudgetPage(shapes.Page):
    """Budgets."""

    items: list[SavedBudget]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    period: Period
    workflow: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    max_cost_usd: Annotated[float, msgspec.Meta(gt=0, le=COST_USD_MAX)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=COUNT_MAX)] | None = None
    max_calls: Annotated[int, msgspec.Meta(ge=1, le=COUNT_MAX)] | None = None
    on_breach: BreachAction = "stop"


_decoder = msgspec.json.Decoder(_Body)
SCHEMAS: dict[str, Any] = {"BudgetSpec": BudgetSpec.model_json_schema()}


@router.get("/budgets", summary="List budgets", responses=shapes.json_of(BudgetPage))
async def list_budgets(request: Request, caller: Caller, limit: Limit = LIMIT, skip: Skip = 0) -> Response:
    """List the budgets of the workspace and its workflows, with what is used of them in this day or month.

    Budgets of executions and steps are those of the definition, and not listed.
    """
    found, total = await adapters(request).budgets.page(caller.workspace, limit, skip)
    return page([_shown(one) for one in found], total, skip, limit, None)


@router.put(
    "/budgets",
    summary="Save a budget",
    responses=shapes.json_of(SavedBudget),
    openapi_extra=shapes.body("BudgetSpec"),
)
async def save_budget(request: Request, caller: Caller) -> Response:
    """Save a budget, in the place of the one of the same workflow and period if there is one.

    A new budget counts from now on, not from the beginning of the day or month. What is used of one that is replaced
    stays used.
    """
    wanted = decode(_decoder, await read_body(request, BODY_BYTES_MAX))
    if (wanted.max_cost_usd, wanted.max_tokens, wanted.max_calls) == (None, None, None):
        message = "set max_cost_usd, max_tokens or max_calls; DELETE removes a budget"
        raise Refused("request_invalid", message, [{"loc": ["body"], "msg": message, "type": "missing"}])
    cost = None if wanted.max_cost_usd is None else Decimal(str(wanted.max_cost_usd))
    bounds = Bounds(cost, wanted.max_tokens, wanted.max_calls, wanted.on_breach)
    workflow_id = await _workflow_id(request, caller.workspace, wanted.workflow)
    budgets = adapters(request).budgets
    return Json(_shown(await budgets.save(caller.workspace, workflow_id, wanted.period, bounds, caller.subject)))


@router.delete("/budgets", status_code=204, summary="Remove a budget", response_class=Response)
async def delete_budget(
    request: Request,
    caller: Caller,
    period: Annotated[Period, Query()],
    workflow: Annotated[str | None, Query(min_length=1, max_length=200, description=_WORKFLOW)] = None,
) -> Response:
    """Remove the budget of exactly this workflow, or of the whole workspace, for this period."""
    workflow_id = await _workflow_id(request, caller.workspace, workflow)
    await adapters(request).budgets.delete(caller.workspace, workflow_id, period)
    return Response(status_code=204)


async def _workflow_id(request: Request, workspace: str, ref: str | None) -> str:
    return ANY if ref is None else await adapters(request).workflows.id_of(workspace, ref)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    bounds = {name: row[name] for name in ("period", "max_tokens", "max_calls", "on_breach", "raises", "updated_by")}
    return {
        "workflow_id": None if row["workflow_id"] == ANY else row["workflow_id"],
        "workflow": row["workflow_name"],
        **bounds,
        "max_cost_usd": None if row["max_cost_usd"] is None else float(row["max_cost_usd"]),
        **{
            kind: {
                "cost_usd": float(row[f"{kind}_usd"]),
                "tokens": row[f"{kind}_tokens"],
                "calls": row[f"{kind}_calls"],
            }
            for kind in ("spent", "reserved")
        },
        "breached_at": None if row["breached_at"] is None else timestamp(row["breached_at"]),
        "updated_at": timestamp(row["updated_at"]),
    }
