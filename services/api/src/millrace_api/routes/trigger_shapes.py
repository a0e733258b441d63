"""What requests and answers about triggers and dead letters look like, for the OpenAPI document alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from millrace_api.routes.shapes import Page

Kind = Literal["cron", "event", "webhook", "alert"]
_FILTER = "A CEL expression over `event` and `trigger`: whether it fires."
_DEDUPE = "A CEL expression: events with the same value start one execution."


class TriggerSpec(BaseModel):
    """A trigger as its author writes it, in JSON or YAML. Fields of other kinds are refused."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64)
    kind: Kind
    workflow: str = Field(description="Id or name.")
    version: int | None = Field(None, ge=1, description="The latest version when absent.")
    input: dict[str, Any] | None = Field(None, description="Templates over `event` and `trigger`, by input.")
    enabled: bool = True
    labels: dict[str, str] | None = Field(None, description="Of the executions.")
    priority: Literal["high", "normal", "low"] | None = Field(None, description="That of the workflow when absent.")
    cron: str | None = Field(None, description="Kind cron: five fields, or six with seconds in front.")
    timezone: str | None = Field(None, description="Kind cron: an IANA name; UTC when absent.")
    misfire: Literal["skip", "run_once"] | None = Field(None, description="Kind cron: what becomes of missed times.")
    event: str | None = Field(None, description="Kind event: the name it is published under; the trigger's if absent.")
    filter: str | None = Field(None, description=_FILTER)
    dedupe: str | None = Field(None, description=_DEDUPE)
    secret: str | None = Field(None, description="Kind webhook: signs requests. Never shown; empty takes it away.")
    match: dict[str, str] | None = Field(None, description="Kind alert: labels that an alert must have.")
    statuses: list[Literal["firing", "resolved"]] | None = Field(None, description="Kind alert: firing if absent.")


class Counts(BaseModel):
    """What has come of a trigger; `repeated` ones had started their execution before."""

    fired: int
    repeated: int
    filtered: int
    failed: int
    missed: int


class Trigger(BaseModel):
    """A trigger, what has come of it, and when it fires next."""

    id: str
    name: str
    kind: Kind
    enabled: bool
    workflow: str
    version: int | None
    input: dict[str, Any]
    labels: dict[str, str]
    priority: str | None
    cron: str | None = None
    timezone: str | None = None
    misfire: str | None = None
    next_fire_at: datetime | None = None
    event: str | None = None
    subject: str | None = Field(None, description="Kind event: where other services publish.")
    filter: str | None = None
    dedupe: str | None = None
    path: str | None = Field(None, description="Kind webhook: where to post. Whole only where the token is new.")
    signed: bool | None = Field(None, description="Kind webhook: whether requests must be signed.")
    match: dict[str, str] | None = None
    statuses: list[str] | None = None
    last_fired_at: datetime | None
    last_execution_id: str | None
    counts: Counts
    last_error: str | None
    last_error_at: datetime | None
    created_at: datetime
    updated_at: datetime
    created_by: str


class TriggerPage(Page):
    """Triggers, newest first."""

    items: list[Trigger]


class Trial(BaseModel):
    """What the trigger shall see."""

    model_config = ConfigDict(extra="forbid")

    event: Any = None


class Fired(BaseModel):
    """What came of it: an execution, unless the filter said no."""

    trigger_id: str
    execution_id: str | None
    filtered: bool


class HookAccepted(BaseModel):
    """The executions that the request stands for; none when the trigger's filter said no."""

    execution_ids: list[str]
    repeated: bool = Field(description="The same request had started them before.")
    filtered: bool


class AlertFired(BaseModel):
    """An alert that fired a trigger."""

    trigger_id: str
    fingerprint: str
    execution_id: str
    repeated: bool


class AlertFailed(BaseModel):
    """An alert that could not fire a trigger that is meant for it."""

    trigger_id: str
    fingerprint: str
    error: str


class AlertsTaken(BaseModel):
    """What came of a notification."""

    received: int
    fired: list[AlertFired]
    failed: list[AlertFailed]


class DeadSummary(BaseModel):
    """A message that could not be processed, and why."""

    sequence: int
    stream: str
    subject: str
    original_sequence: int | None
    reason: str
    service: str
    at: datetime
    size_bytes: int
    truncated: bool
    redrivable: bool
    redriven_at: datetime | None
    redriven_by: str | None
    redriven_count: int


class DeadDetail(DeadSummary):
    """A dead letter with its payload."""

    headers: dict[str, str]
    payload_encoding: Literal["json", "text", "base64"]
    payload: Any


class DeadPage(Page):
    """Dead letters, newest first. `total` counts those of the stream, all workspaces together."""

    items: list[DeadSummary]


class Redriven(BaseModel):
    """The message was sent again, and is stored as `stored_sequence` of its stream."""

    sequence: int
    stream: str
    subject: str
    stored_sequence: int
    redriven_at: datetime
    redriven_count: int


SCHEMAS: dict[str, Any] = {
    "TriggerSpec": TriggerSpec.model_json_schema(),
    "Trial": Trial.model_json_schema(),
}

TRIGGER_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The trigger, as YAML or JSON.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/TriggerSpec"}},
            "application/yaml": {"schema": {"type": "string"}},
        },
    }
}

ANY_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "description": "Any JSON, at most 1 MiB.",
        "content": {"application/json": {"schema": {}}},
    }
}

NOTIFICATION_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": 'Alertmanager\'s notification, version "4", at most 8 MiB and 10,000 alerts.',
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}
