"""Rate limits of models: list, save, remove. They bind every workspace, so they are the operator's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from millrace_api.adapters.rate_limits import RateLimit
from millrace_api.domain.documents import decode
from millrace_api.domain.rendering import timestamp
from millrace_api.errors import Refused
from millrace_api.identity import Identity
from millrace_api.routes import shapes
from millrace_api.routes.exchange import LIMIT, PREFIX, Caller, Json, Limit, Skip, adapters, page, read_body

router = APIRouter(prefix=PREFIX, tags=["rate limits"])

BODY_BYTES_MAX = 16 * 1024
PER_MINUTE_MAX = 10**12
ANY = "*"
WORD = r"^[!-~]{1,200}$"
_WORD = msgspec.Meta(pattern=WORD)
_PER_MINUTE = msgspec.Meta(ge=1, le=PER_MINUTE_MAX)


class RateLimitSpec(BaseModel):
    """A rate limit; at least one of its two bounds is set."""

    model_config = ConfigDict(extra="forbid")

    provider: str = Field(pattern=WORD, description="As before the colon of an agent's `model`.")
    model: str = Field(ANY, pattern=WORD, description="As after the colon; `*` is all of the provider's together.")
    workspace: str = Field(ANY, pattern=WORD, description="`*` is all workspaces together.")
    requests_per_minute: int | None = Field(None, ge=1, le=PER_MINUTE_MAX)
    tokens_per_minute: int | None = Field(None, ge=1, le=PER_MINUTE_MAX, description="Of input and output.")


class SavedRateLimit(RateLimitSpec):
    """A rate limit, and who saved it. Runners know of it within a few seconds."""

    updated_at: datetime
    updated_by: str


class RateLimitPage(shapes.Page):
    """Rate limits."""

    items: list[SavedRateLimit]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    provider: Annotated[str, _WORD]
    model: Annotated[str, _WORD] = ANY
    workspace: Annotated[str, _WORD] = ANY
    requests_per_minute: Annotated[int, _PER_MINUTE] | None = None
    tokens_per_minute: Annotated[int, _PER_MINUTE] | None = None


_decoder = msgspec.json.Decoder(_Body)
SCHEMAS: dict[str, Any] = {"RateLimitSpec": RateLimitSpec.model_json_schema()}


@router.get("/rate-limits", summary="List rate limits", responses=shapes.json_of(RateLimitPage))
async def list_rate_limits(request: Request, caller: Caller, limit: Limit = LIMIT, skip: Skip = 0) -> Response:
    """List what models may be asked in a minute, by provider, model and workspace. Every one that fits a call holds.

    Limits of the runners' environment (`MILLRACE_RATE_LIMITS`) are not listed; one that is saved here replaces them.
    """
    _operator_only(caller)
    found, total = await adapters(request).rate_limits.page(limit, skip)
    return page([_shown(one) for one in found], total, skip, limit, None)


@router.put(
    "/rate-limits",
    summary="Save a rate limit",
    responses=shapes.json_of(SavedRateLimit),
    openapi_extra=shapes.body("RateLimitSpec"),
)
async def save_rate_limit(request: Request, caller: Caller) -> Response:
    """Save a rate limit, in the place of the one with the same provider, model and workspace if there is one."""
    _operator_only(caller)
    wanted = decode(_decoder, await read_body(request, BODY_BYTES_MAX))
    if wanted.requests_per_minute is None and wanted.tokens_per_minute is None:
        message = "set requests_per_minute, tokens_per_minute, or both; DELETE removes a limit"
        raise Refused("request_invalid", message, [{"loc": ["body"], "msg": message, "type": "missing"}])
    saved = await adapters(request).rate_limits.save(RateLimit(**msgspec.structs.asdict(wanted)), caller.subject)
    return Json(_shown(saved))


@router.delete("/rate-limits", status_code=204, summary="Remove a rate limit", response_class=Response)
async def delete_rate_limit(
    request: Request,
    caller: Caller,
    provider: Annotated[str, Query(pattern=WORD)],
    model: Annotated[str, Query(pattern=WORD)] = ANY,
    workspace: Annotated[str, Query(pattern=WORD)] = ANY,
) -> Response:
    """Remove the rate limit with exactly this provider, model and workspace."""
    _operator_only(caller)
    await adapters(request).rate_limits.delete(workspace, provider, model)
    return Response(status_code=204)


def _operator_only(caller: Identity) -> None:
    if not caller.is_operator:
        raise Refused("operator_only", "rate limits bind every workspace: ask whoever runs this installation")


def _shown(limit: dict[str, Any]) -> dict[str, Any]:
    return {**limit, "updated_at": timestamp(limit["updated_at"])}
