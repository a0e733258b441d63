"""How triggers are shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from millrace_api.domain.rendering import timestamp
from millrace_api.domain.triggers import Trigger, TriggerSpec
from millrace_api.errors import CalendarInvalid
from millrace_shared.subjects import trigger_event

HOOKS = "/api/v1/hooks"
"""Where webhooks are posted to, each below its own token."""
_COUNTS = ("fired", "repeated", "filtered", "failed", "missed")


def render(trigger: Trigger, now: float) -> dict[str, Any]:
    """Return a trigger as the api shows it: never its secret, and of its token the last characters."""
    spec = trigger.spec
    shown: dict[str, Any] = {
        "id": trigger.id,
        "name": spec.name,
        "kind": spec.kind,
        "enabled": spec.is_enabled,
        "workflow": spec.workflow,
        "version": spec.version,
        "input": spec.input or {},
        "labels": spec.labels or {},
        "priority": spec.priority,
        **_shown_kind(trigger, now),
        "last_fired_at": timestamp(trigger.tally.last_fired_at),
        "last_execution_id": trigger.tally.last_execution_id,
        "counts": {name: getattr(trigger.tally, name) for name in _COUNTS},
        "last_error": trigger.tally.last_error,
        "last_error_at": timestamp(trigger.tally.last_error_at),
        "created_at": timestamp(trigger.created_at),
        "updated_at": timestamp(trigger.updated_at),
        "created_by": trigger.created_by,
    }
    return shown


def _following(spec: TriggerSpec, now: float) -> float | None:
    try:
        return spec.calendar().next(now)
    except CalendarInvalid:  # a time zone that this machine has forgotten since: nobody knows
        return None


def _shown_kind(trigger: Trigger, now: float) -> dict[str, Any]:
    spec = trigger.spec
    rules = {"filter": spec.filter, "dedupe": spec.dedupe}
    match spec.kind:
        case "cron":
            following = _following(spec, now) if spec.is_enabled else None
            return {
                "cron": spec.cron,
                "timezone": spec.timezone or "UTC",
                "misfire": spec.misfire or "skip",
                "next_fire_at": None if following is None else timestamp(datetime.fromtimestamp(following, UTC)),
            }
        case "event":
            return {"event": spec.event_name, "subject": trigger_event(trigger.workspace, spec.event_name), **rules}
        case "webhook":
            hint = f"{HOOKS}/…{trigger.token_hint}"
            return {"path": hint, "signed": trigger.secret is not None, **rules}
        case "alert":
            return {"match": spec.match or {}, "statuses": list(spec.statuses or ("firing",)), **rules}
