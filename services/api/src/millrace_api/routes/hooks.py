"""What others call to fire triggers: webhooks, by the token in their path, and Alertmanager."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from millrace_api.domain import trigger_alerts as alerts
from millrace_api.domain.documents import decode
from millrace_api.domain.trigger_rules import Occurrence
from millrace_api.domain.trigger_signatures import HEADER, KEY_HEADER, check_signature, read_key
from millrace_api.domain.triggers import EVENT_BYTES_MAX, Trigger
from millrace_api.errors import EventUnusable, Refused
from millrace_api.routes import shapes
from millrace_api.routes import trigger_shapes as own
from millrace_api.routes.exchange import PREFIX, Caller, Json, adapters, read_body
from millrace_api.routes.triggers import fire

router = APIRouter(prefix=PREFIX, tags=["triggers"])

TOKEN_CHARS_MAX = 200
FIRED_AT_ONCE_MAX = 50
"""Alerts of one notification that are worked on at once: they share the bus's batches."""
_HIDDEN = frozenset({"authorization", "proxy-authorization", "cookie", HEADER.lower(), KEY_HEADER.lower()})
"""Headers that a trigger's expressions do not see: what proves who somebody is belongs into no execution."""

_event_decoder = msgspec.json.Decoder(Any)


@router.post(
    "/hooks/{token}",
    status_code=202,
    summary="Fire a webhook",
    responses=shapes.json_of(own.HookAccepted, 202),
    openapi_extra=own.ANY_BODY,
)
async def receive_hook(request: Request, token: str) -> Response:
    """Fire the webhook that the token belongs to. No API key is needed; a signature is if the trigger has a secret.

    `Millrace-Signature: t=<Unix seconds>,v1=<hex>`, with the HMAC-SHA256 of `<t>.<Idempotency-Key>.<body>`, at most
    five minutes old. The same value of the trigger's `dedupe`, the same `Idempotency-Key`, or the same signature is the
    same request: repeating it starts nothing new.
    """
    trigger = await adapters(request).triggers.of_token(token) if len(token) <= TOKEN_CHARS_MAX else None
    if trigger is None:
        raise Refused("hook_not_found", "no webhook has this token")
    body = await read_body(request, EVENT_BYTES_MAX)
    key = read_key(request.headers.get(KEY_HEADER))
    identity = f"key/{key}" if key else None
    if trigger.secret is not None:
        digest = check_signature(trigger.secret, request.headers.get(HEADER), key, body, time.time())
        identity = identity or f"signature/{digest}"
    event = decode(_event_decoder, body) if body else None
    outcome = await fire(request, trigger, Occurrence(event, _facts(request), identity))
    return Json(
        {
            "execution_ids": [] if outcome.execution_id is None else [outcome.execution_id],
            "repeated": outcome.kind == "repeated",
            "filtered": outcome.kind == "filtered",
        },
        202,
    )


def _facts(request: Request) -> dict[str, Any]:
    headers = {name: value for name, value in request.headers.items() if name not in _HIDDEN}
    return {"headers": headers, "query": dict(request.query_params)}


@router.post(
    "/alerts/alertmanager",
    tags=["alerts"],
    summary="Take alerts from Alertmanager",
    responses=shapes.json_of(own.AlertsTaken),
    openapi_extra=own.NOTIFICATION_BODY,
)
async def receive_alerts(request: Request, caller: Caller) -> Response:
    """Take a notification (version "4") and fire the triggers that are meant for its alerts.

    An alert that comes again, as Alertmanager repeats them, starts nothing new: it is told by its fingerprint, its
    start and its status. A trigger that cannot be fired is named in the answer, and does not hold the others up.
    """
    offered = adapters(request)
    notification = alerts.decode_notification(await read_body(request, alerts.BODY_BYTES_MAX))
    if len(notification.alerts) > alerts.ALERTS_MAX:
        raise Refused("request_invalid", f"a notification has at most {alerts.ALERTS_MAX} alerts")
    triggers = await offered.triggers.of_alerts(caller.workspace)

    async def take(trigger: Trigger, alert: alerts.Alert) -> dict[str, Any]:
        told = {"trigger_id": trigger.id, "fingerprint": alerts.fingerprint_of(alert)}
        try:
            outcome = await offered.firing.fire(trigger, alerts.occurrence_of(alert, notification))
        except (Refused, EventUnusable) as error:
            return {**told, "error": str(error)}
        return {**told, "execution_id": outcome.execution_id, "repeated": outcome.kind == "repeated"}

    meant = ((trigger, alert) for alert in notification.alerts for trigger in triggers if alerts.takes(trigger, alert))
    told: list[dict[str, Any]] = []
    while group := list(itertools.islice(meant, FIRED_AT_ONCE_MAX)):
        told += await asyncio.gather(*(take(trigger, alert) for trigger, alert in group))
    return Json(
        {
            "received": len(notification.alerts),
            "fired": [one for one in told if one.get("execution_id") is not None],
            "failed": [one for one in told if "error" in one],
        }
    )
