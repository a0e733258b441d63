"""Dead letters as the api shows them, who may see one, and which may be sent again."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import msgspec

from millrace_api.domain.rendering import timestamp
from millrace_shared.messages import DeadLetter

REDRIVABLE = frozenset({"TRIGGERS", "INBOX", "WORK"})
"""Streams whose messages do something when they come again. The others keep theirs, and a copy would change a log."""
_REMEDY = {
    "TIMERS": "the time has passed: fire the trigger by hand with POST /api/v1/triggers/{id}/fire",
    "EVENTS": "it is still in its log: `millrace telemetry rebuild` reads it again",
    "TELEMETRY": "it is still in its stream: `millrace telemetry rebuild` reads it again",
}


class Redrive(msgspec.Struct, frozen=True):
    """The note that a dead letter was sent again: when (Unix seconds), by whom, how often, and as which message."""

    at: float
    by: str
    count: int
    stored_sequence: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A dead letter in DEAD, and the note of its last redrive. In lists `letter` comes without its payload."""

    sequence: int
    letter: DeadLetter
    size_bytes: int
    redrive: Redrive | None = None


def is_of(letter: DeadLetter, workspace: str) -> bool:
    """Tell whether a letter is known to belong to a workspace: an event that was published to it.

    What other streams hold belongs to the engine: a message that nobody can read says nothing of its workspace.
    """
    return letter.subject.startswith(f"trigger.{workspace}.")


def cannot_redrive(letter: DeadLetter) -> str | None:
    """Return why a letter cannot be sent again, or None if it can."""
    if letter.truncated:
        return "only its beginning was kept, it was too large"
    if letter.stream not in REDRIVABLE:
        return _REMEDY.get(letter.stream, "messages of this stream are not sent again")
    return None


def summary(kept: Kept) -> dict[str, Any]:
    """Return a letter as a list shows it."""
    letter, redrive = kept.letter, kept.redrive
    return {
        "sequence": kept.sequence,
        "stream": letter.stream,
        "subject": letter.subject,
        "original_sequence": letter.sequence or None,
        "reason": letter.reason,
        "service": letter.service,
        "at": timestamp(letter.at),
        "size_bytes": kept.size_bytes,
        "truncated": letter.truncated,
        "redrivable": cannot_redrive(letter) is None,
        "redriven_at": None if redrive is None else timestamp(redrive.at),
        "redriven_by": None if redrive is None else redrive.by,
        "redriven_count": 0 if redrive is None else redrive.count,
    }


def detail(kept: Kept) -> dict[str, Any]:
    """Return a letter with its payload: as JSON if it is, else as text, else in base64."""
    payload, encoding = _readable(kept.letter.payload)
    return {**summary(kept), "headers": kept.letter.headers, "payload_encoding": encoding, "payload": payload}


def _readable(payload: bytes) -> tuple[Any, str]:
    try:
        # Decoded to see that it is JSON, and then shown byte by byte as it came: large numbers stay as they are.
        msgspec.json.decode(payload)
        return msgspec.Raw(payload), "json"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return payload.decode(), "text"
    except UnicodeDecodeError:
        return base64.b64encode(payload).decode(), "base64"
