"""What calls to models used and cost: by day, model, workflow, and so on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from millrace_api.adapters.usage import GROUPS_MAX, Group
from millrace_api.domain.filters import in_utc
from millrace_api.domain.rendering import timestamp
from millrace_api.errors import Refused
from millrace_api.routes import shapes
from millrace_api.routes.exchange import PREFIX, Caller, Json, adapters

router = APIRouter(prefix=PREFIX, tags=["usage"])

DAYS_DEFAULT = 30
EVERY = "*"
GROUPS: tuple[Group, ...] = get_args(Group)
_GROUP_BY = f"Some of {', '.join(GROUPS)}, separated by commas. Without any, all is one sum."


class UsageRow(BaseModel):
    """What the calls of one group used. It has the members of the groups that were asked for, and no others.

    `cost_usd` is that of the calls whose price is known; `unpriced_calls` counts the others. Cached tokens are a part
    of input tokens, reasoning tokens a part of output tokens.
    """

    day: str | None = None
    month: str | None = None
    provider: str | None = None
    model: str | None = None
    workflow_id: str | None = None
    workflow: str | None = None
    workspace: str | None = None
    outcome: str | None = None
    calls: int
    failed_calls: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_usd: float
    unpriced_calls: int
    average_duration_seconds: float
    average_time_to_first_token_seconds: float | None


class Usage(BaseModel):
    """What calls to models used in a span of time. `truncated`: there are more groups than are shown."""

    since: datetime
    until: datetime
    group_by: list[Group]
    items: list[UsageRow]
    truncated: bool


@router.get("/usage", summary="Add up calls to models", responses=shapes.json_of(Usage))
async def show_usage(
    request: Request,
    caller: Caller,
    group_by: Annotated[str, Query(max_length=200, description=_GROUP_BY)] = "",
    since: Annotated[datetime | None, Query(description="Calls at this time or later; 30 days before `until`.")] = None,
    until: Annotated[datetime | None, Query(description="Calls before this time; now, when absent.")] = None,
    workflow: Annotated[
        str | None, Query(max_length=200, description="Only calls of this workflow: id or name.")
    ] = None,
    workspace: Annotated[str | None, Query(max_length=200, description="`*`: of all; for the operator only.")] = None,
) -> Response:
    """Add up calls to models, each of which counts once: for the workflow whose step made it.

    A step that calls another workflow, or is tried again, adds nothing to the calls that were made.
    """
    if workspace not in {None, caller.workspace} and not caller.is_operator:
        raise Refused("operator_only", "usage of other workspaces is shown to whoever runs this installation")
    groups = _groups(group_by)
    end = in_utc(until, ("query", "until")) or datetime.now(UTC)
    begin = in_utc(since, ("query", "since")) or end - timedelta(days=DAYS_DEFAULT)
    whose = None if workspace == EVERY else workspace or caller.workspace
    offered = adapters(request)
    workflow_id = None if workflow is None else await offered.workflows.id_of(whose or caller.workspace, workflow)
    rows = await offered.usage.read(whose, groups, begin, end, workflow_id)
    return Json(
        {
            "since": timestamp(begin),
            "until": timestamp(end),
            "group_by": groups,
            "items": [_shown(row) for row in rows],
            "truncated": len(rows) == GROUPS_MAX,
        }
    )


def _groups(text: str) -> list[Group]:
    named = [name.strip() for name in text.split(",") if name.strip()]
    found = [group for group in GROUPS if group in named]
    if len(found) < len(named):
        message = f"group_by takes each of {', '.join(GROUPS)} once, separated by commas"
        raise Refused("request_invalid", message, [{"loc": ["query", "group_by"], "msg": message, "type": "enum"}])
    return found


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "cost_usd": float(row["cost_usd"])}
