"""Triggers, and the messages that could not be processed."""

from typing import Any, Literal, TypedDict, cast

import httpx

from millrace.client.transport import Transport, part, present

TriggerKind = Literal["cron", "event", "webhook", "alert"]


class Trigger(TypedDict, total=False):
    """A trigger. What only some kinds have is there for those alone."""

    id: str
    name: str
    kind: TriggerKind
    enabled: bool
    workflow: str
    version: int | None
    input: dict[str, Any]
    cron: str
    timezone: str
    misfire: str
    next_fire_at: str | None
    event: str
    subject: str
    path: str
    signed: bool
    match: dict[str, str]
    last_fired_at: str | None
    last_execution_id: str | None
    counts: dict[str, int]
    last_error: str | None
    last_error_at: str | None
    created_at: str
    updated_at: str


class TriggerPage(TypedDict):
    """A page of triggers. Go on with `cursor=next_cursor`."""

    items: list[Trigger]
    total: int
    next_cursor: str | None


class DeadLetter(TypedDict):
    """A message that could not be processed, and why."""

    sequence: int
    stream: str
    subject: str
    original_sequence: int | None
    reason: str
    service: str
    at: str
    size_bytes: int
    truncated: bool
    redrivable: bool
    redriven_at: str | None
    redriven_by: str | None
    redriven_count: int


class DeadDetail(DeadLetter):
    """A dead letter with its payload."""

    headers: dict[str, str]
    payload_encoding: Literal["json", "text", "base64"]
    payload: Any


class DeadPage(TypedDict):
    """A page of dead letters, newest first. It may be short of its limit: go on while there is a `next_cursor`."""

    items: list[DeadLetter]
    total: int
    next_cursor: str | None


class Triggers(Transport):
    """The calls about triggers and dead letters."""

    def save_trigger(self, source: bytes, name: str) -> tuple[Trigger, bool]:
        """Save a trigger, YAML or JSON, under its name; return it, and whether it is a new one."""
        answer = self._send(
            "PUT", f"/triggers/{part(name)}", content=source, headers={"Content-Type": "application/yaml"}
        )
        return cast("Trigger", answer.json()), answer.status_code == httpx.codes.CREATED

    def trigger(self, ref: str) -> Trigger:
        """Return a trigger by id or name."""
        return cast("Trigger", self._send("GET", f"/triggers/{part(ref)}").json())

    def triggers(self, *, kind: TriggerKind | None = None, limit: int = 10, cursor: str | None = None) -> TriggerPage:
        """Return a page of triggers, newest first."""
        query = present(kind=kind, limit=limit, cursor=cursor)
        return cast("TriggerPage", self._send("GET", "/triggers", params=query).json())

    def change_trigger(self, ref: str, **fields: Any) -> Trigger:
        """Change some fields of a trigger, each as a whole; None takes one away."""
        answer = self._send("PATCH", f"/triggers/{part(ref)}", json=fields, repeatable=True)
        return cast("Trigger", answer.json())

    def delete_trigger(self, ref: str) -> None:
        """Remove a trigger."""
        self._send("DELETE", f"/triggers/{part(ref)}")

    def renew_token(self, ref: str) -> Trigger:
        """Give a webhook another token; its `path` is whole in this answer alone."""
        return cast("Trigger", self._send("POST", f"/triggers/{part(ref)}/token").json())

    def fire(self, ref: str, event: Any = None) -> dict[str, Any]:
        """Fire a trigger by hand; each call starts an execution of its own, unless the filter says no."""
        answer = self._send("POST", f"/triggers/{part(ref)}/fire", json={"event": event})
        return cast("dict[str, Any]", answer.json())

    def dead(self, *, stream: str | None = None, limit: int = 10, cursor: str | None = None) -> DeadPage:
        """Return a page of messages that could not be processed, newest first."""
        query = present(stream=stream, limit=limit, cursor=cursor)
        return cast("DeadPage", self._send("GET", "/dead", params=query).json())

    def dead_letter(self, sequence: int) -> DeadDetail:
        """Return a dead letter with its payload."""
        return cast("DeadDetail", self._send("GET", f"/dead/{sequence}").json())

    def redrive(self, sequence: int, *, again: bool = False) -> dict[str, Any]:
        """Send a dead letter's message again; a second time only if `again`."""
        answer = self._send("POST", f"/dead/{sequence}/redrive", params={"again": again})
        return cast("dict[str, Any]", answer.json())
