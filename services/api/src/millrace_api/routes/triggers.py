"""Triggers: save, look at, change, remove, try out."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from millrace_api.adapters.trigger_firing import Outcome
from millrace_api.domain.documents import decode
from millrace_api.domain.filters import cursor_of, read_cursor
from millrace_api.domain.rendering import timestamp
from millrace_api.domain.trigger_reading import SOURCE_BYTES_MAX, read_spec
from millrace_api.domain.trigger_rendering import HOOKS, render
from millrace_api.domain.trigger_rules import Occurrence
from millrace_api.domain.triggers import EVENT_BYTES_MAX, Kind, Trigger
from millrace_api.errors import EventUnusable, Refused
from millrace_api.identity import Identity
from millrace_api.routes import shapes
from millrace_api.routes import trigger_shapes as own
from millrace_api.routes.exchange import LIMIT, PREFIX, Caller, Cursor, Json, Limit, Skip, adapters, page, read_body
from millrace_shared.subjects import trigger_event

router = APIRouter(prefix=PREFIX, tags=["triggers"])

Ref = Annotated[str, Path(min_length=1, max_length=200, description="Id or name of the trigger.")]


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /triggers/{ref}/fire`: what the trigger shall see."""

    event: Any = None


_fire_decoder = msgspec.json.Decoder(Trial)


@router.post(
    "/triggers",
    status_code=201,
    summary="Save a new trigger",
    responses=shapes.json_of(own.Trigger, 201),
    openapi_extra=own.TRIGGER_BODY,
)
async def create_trigger(request: Request, caller: Caller) -> Response:
    """Save a trigger; it fires from now on. The path of a webhook, with its token, is shown this once."""
    fields = read_spec(await read_body(request, SOURCE_BYTES_MAX))
    return await _create(request, caller, fields)


async def _create(request: Request, caller: Identity, fields: dict[str, Any]) -> Response:
    trigger, token = await adapters(request).triggers.create(caller, fields)
    return Json(_shown(trigger, token), 201, {"Location": f"{PREFIX}/triggers/{trigger.id}"})


@router.get("/triggers", summary="List triggers", responses=shapes.json_of(own.TriggerPage))
async def list_triggers(
    request: Request,
    caller: Caller,
    kind: Annotated[Kind | None, Query(description="Only those of this kind.")] = None,
    name: Annotated[str | None, Query(max_length=200, description="Exactly this name.")] = None,
    limit: Limit = LIMIT,
    skip: Skip = 0,
    cursor: Cursor = None,
) -> Response:
    """List triggers, newest first."""
    triggers, total = await adapters(request).triggers.page(
        caller.workspace, kind=kind, name=name, before=read_cursor(cursor), limit=limit, skip=skip
    )
    following = cursor_of(triggers[-1].created_at, triggers[-1].id) if len(triggers) == limit else None
    return page([_shown(trigger) for trigger in triggers], total, skip, limit, following)


@router.get("/triggers/{ref}", summary="Show a trigger", responses=shapes.json_of(own.Trigger))
async def show_trigger(request: Request, caller: Caller, ref: Ref) -> Response:
    """Show a trigger: what it does, when it fires next, and what has come of it."""
    return Json(_shown(await adapters(request).triggers.get(caller.workspace, ref)))


@router.put(
    "/triggers/{ref}",
    summary="Save a trigger, new or not",
    responses=shapes.json_of(own.Trigger) | shapes.json_of(own.Trigger, 201),
    openapi_extra=own.TRIGGER_BODY,
)
async def save_trigger(request: Request, caller: Caller, ref: Ref) -> Response:
    """Replace a trigger, or save a new one when the path is its name. Its secret stays unless another is given."""
    fields = read_spec(await read_body(request, SOURCE_BYTES_MAX))
    store = adapters(request).triggers
    try:
        trigger = await store.replace(caller, ref, fields, merge=False)
    except Refused as refusal:
        if refusal.code != "trigger_not_found" or fields.get("name") != ref:
            raise
        try:
            return await _create(request, caller, fields)
        except Refused as lost:  # another request made it a moment ago
            if lost.code != "trigger_exists":
                raise
            trigger = await store.replace(caller, ref, fields, merge=False)
    return Json(_shown(trigger))


@router.patch(
    "/triggers/{ref}",
    summary="Change some fields of a trigger",
    responses=shapes.json_of(own.Trigger),
    openapi_extra=own.TRIGGER_BODY,
)
async def change_trigger(request: Request, caller: Caller, ref: Ref) -> Response:
    """Change the fields that the body names, each as a whole; null takes one away."""
    fields = read_spec(await read_body(request, SOURCE_BYTES_MAX), keep_null=True)
    return Json(_shown(await adapters(request).triggers.replace(caller, ref, fields, merge=True)))


@router.delete("/triggers/{ref}", status_code=204, summary="Remove a trigger", response_class=Response)
async def delete_trigger(request: Request, caller: Caller, ref: Ref) -> Response:
    """Remove a trigger. What it has started goes on."""
    await adapters(request).triggers.delete(caller, ref)
    return Response(status_code=204)


@router.post("/triggers/{ref}/token", summary="Renew a webhook's token", responses=shapes.json_of(own.Trigger))
async def renew_token(request: Request, caller: Caller, ref: Ref) -> Response:
    """Give a webhook another token, which is shown this once. The one before opens nothing any more."""
    trigger, token = await adapters(request).triggers.renew_token(caller, ref)
    return Json(_shown(trigger, token))


@router.post(
    "/triggers/{ref}/fire",
    status_code=202,
    summary="Try a trigger out",
    responses=shapes.json_of(own.Fired, 202) | shapes.json_of(own.Fired),
    openapi_extra=shapes.body("Trial", required=False),
)
async def fire_trigger(request: Request, caller: Caller, ref: Ref) -> Response:
    """Fire a trigger by hand, enabled or not, with the event of the body: 202, or 200 when its filter says no.

    Each call starts an execution of its own; `dedupe` is left out.
    """
    offered = adapters(request)
    wanted = decode(_fire_decoder, await read_body(request, EVENT_BYTES_MAX) or b"{}")
    trigger = await offered.triggers.get(caller.workspace, ref)
    occurrence = Occurrence(wanted.event, _facts_by_hand(trigger), by_hand=True)
    outcome = await fire(request, trigger, occurrence)
    shown = {
        "trigger_id": trigger.id,
        "execution_id": outcome.execution_id,
        "filtered": outcome.kind == "filtered",
    }
    if outcome.execution_id is None:
        return Json(shown)
    return Json(shown, 202, {"Location": f"{PREFIX}/executions/{outcome.execution_id}"})


async def fire(request: Request, trigger: Trigger, occurrence: Occurrence) -> Outcome:
    """Fire a trigger on behalf of a request.

    Raises:
        Refused: `trigger_event_unusable`, and what starting an execution is refused for.
    """
    try:
        return await adapters(request).firing.fire(trigger, occurrence, traceparent=request.headers.get("traceparent"))
    except EventUnusable as error:
        raise Refused("trigger_event_unusable", f'trigger "{trigger.spec.name}": {error}') from None


def _facts_by_hand(trigger: Trigger) -> dict[str, Any]:
    now = timestamp(time.time())
    match trigger.kind:
        case "cron":
            return {"scheduled_at": now, "timezone": trigger.spec.timezone or "UTC"}
        case "event":
            subject = trigger_event(trigger.workspace, trigger.spec.event_name)
            return {"subject": subject, "sequence": 0, "published_at": now}
        case "webhook":
            return {"headers": {}, "query": {}}
        case "alert":
            return {"receiver": "", "status": "firing"}


def _shown(trigger: Trigger, token: str | None = None) -> dict[str, Any]:
    shown = render(trigger, time.time())
    if token is not None:
        shown["path"] = f"{HOOKS}/{token}"
    return shown
