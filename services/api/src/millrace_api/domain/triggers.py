"""Triggers as authors write them and as the api keeps them, and what one starts when something happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from millrace_api.domain.launch import Launch
from millrace_api.domain.trigger_calendar import Calendar, Misfire, read_calendar
from millrace_api.domain.trigger_rules import Occurrence, Rules
from millrace_api.domain.trigger_signatures import SECRET_CHARS_MAX
from millrace_shared.expressions.program import Evaluate
from millrace_shared.messages import Priority

TRIGGERS_MAX = 1_000
"""Triggers of one workspace."""
EVENT_BYTES_MAX = 1024 * 1024
"""An event, or the body of a webhook."""

Kind = Literal["cron", "event", "webhook", "alert"]
KINDS: tuple[Kind, ...] = ("cron", "event", "webhook", "alert")
AlertStatus = Literal["firing", "resolved"]

# With \Z, since $ also matches before a line break, and a name is a token of a subject.
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9_-]*\Z")]
_EventName = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_-]+\Z")]
_Ref = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Version = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Expression = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
_LabelName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
_LabelValue = Annotated[str, msgspec.Meta(max_length=256)]
_Labels = Annotated[dict[_LabelName, _LabelValue], msgspec.Meta(max_length=32)]
_Secret = Annotated[str, msgspec.Meta(max_length=SECRET_CHARS_MAX)]


class TriggerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A trigger as its author writes it. Null and absent mean the same.

    `workflow` is an id or a name, `version` the latest one when absent. `event` is the name that other services publish
    under, the trigger's own when absent. `secret` is never shown; the empty text takes it away. `match` are labels that
    an alert must have, each with exactly that value.
    """

    name: _Name
    kind: Kind
    workflow: _Ref
    version: _Version | None = None
    input: dict[str, Any] | None = None
    enabled: bool | None = None
    labels: _Labels | None = None
    priority: Priority | None = None
    cron: str | None = None
    timezone: str | None = None
    misfire: Misfire | None = None
    event: _EventName | None = None
    filter: _Expression | None = None
    dedupe: _Expression | None = None
    secret: _Secret | None = None
    match: _Labels | None = None
    statuses: tuple[AlertStatus, ...] | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether it fires."""
        return self.enabled is not False

    @property
    def event_name(self) -> str:
        """The name of the events of an event trigger."""
        return self.event or self.name

    def calendar(self) -> Calendar:
        """Return when a cron trigger fires.

        Raises:
            CalendarInvalid: never, or nobody knows when.
        """
        return read_calendar(self.cron or "", self.timezone or "UTC")


OF_KIND: Mapping[Kind, tuple[str, ...]] = {
    "cron": ("cron", "timezone", "misfire"),
    "event": ("event", "filter", "dedupe"),
    "webhook": ("secret", "filter", "dedupe"),
    "alert": ("match", "statuses", "filter", "dedupe"),
}
"""The fields that only triggers of some kinds have."""
SHARED = ("name", "kind", "workflow", "version", "input", "enabled", "labels", "priority")
"""The fields that every trigger has."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What has come of a trigger so far. `repeated` ones had started an execution before."""

    fired: int = 0
    repeated: int = 0
    filtered: int = 0
    failed: int = 0
    missed: int = 0
    last_fired_at: datetime | None = None
    last_scheduled_at: datetime | None = None
    last_execution_id: str | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger that is kept. `scheduled_from` is when its schedule began to apply; what was before it never missed."""

    id: str
    workspace: str
    spec: TriggerSpec
    created_at: datetime
    updated_at: datetime
    created_by: str
    scheduled_from: datetime
    secret: str | None = field(default=None, repr=False)
    token_hint: str | None = None
    tally: Tally = Tally()

    @property
    def kind(self) -> Kind:
        """What fires it."""
        return self.spec.kind


@dataclass(frozen=True, slots=True)
class Start:
    """An execution that a trigger starts."""

    launch: Launch
    size_bytes: int


def plan(trigger: Trigger, rules: Rules, occurrence: Occurrence, evaluate: Evaluate) -> Start | None:
    """Return the execution to start, or None when the trigger's filter says no.

    The execution's name is made of the trigger and what tells the occurrence from others, so that whoever starts it,
    and however often, it is one execution.

    Raises:
        EventUnusable: an expression has no value for this event.
    """
    spec = trigger.spec
    told = {"id": trigger.id, "name": spec.name, "kind": spec.kind, **occurrence.facts}
    scope = {"event": occurrence.event, "trigger": told}
    if not rules.accepts(scope, evaluate):
        return None
    dedupe = None if occurrence.by_hand else rules.identify(scope, evaluate)
    identity = occurrence.identity if dedupe is None else f"id/{dedupe}"
    inputs = rules.inputs(scope, evaluate)
    launch = Launch(
        workflow=spec.workflow,
        version=spec.version,
        execution_name=None if identity is None else f"{trigger.id}/{identity}",
        input=inputs,
        priority=spec.priority,
        labels=spec.labels,
    )
    return Start(launch, len(msgspec.json.encode(inputs)))
