"""What the stream GATES holds: the tickets of executions at a gate of flow control, and the gate's own document.

    gate.<p>.<gate>.ticket.<exec>   one message for each execution that has come to the gate
    gate.<p>.<gate>.state           one message: who is inside, and up to which ticket the gate has decided

The orchestrators write both (docs/adr, "Gates are documents under a fence"); others may read them, to tell people what
an execution waits for. A gate whose document is not there has nobody inside.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from millrace_shared.errors import MessageInvalid

T = TypeVar("T")

OnLimit = Literal["queue", "drop", "cancel_oldest"]
Verdict = Literal["", "admitted", "refused", "left"]
"""What became of a ticket; empty while it waits. `left`: its execution has ended, or is no longer interested."""

NoticeKind = Literal["admitted", "refused", "cancel"]


class Ticket(msgspec.Struct, frozen=True, omit_defaults=True):
    """An execution's message at a gate, since `at` (Unix seconds). Its stream sequence is its place in the queue.

    Once decided on it is stamped with a verdict, and goes by itself some minutes later.
    """

    at: float
    verdict: Verdict = ""


class Waiting(msgspec.Struct, frozen=True):
    """A ticket that waits: whose it is, its stream sequence, and since when (Unix seconds)."""

    execution_id: str
    sequence: int
    at: float


class Terms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a gate enforces, as version `version` of the workflow says: the newest version that came to it counts."""

    version: int = 0
    limit: int = 1
    per_s: float = 0.0
    delay_s: float = 0.0
    on_limit: OnLimit = "queue"


class GateState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a gate remembers.

    Attributes:
        terms: what it enforces.
        cursor: tickets up to this stream sequence are decided, or taken in (`next`).
        inside: the executions that run, in order of admission (`concurrency` only).
        leaving: those of them that were told to make room (`cancel_oldest`).
        next: taken in and not admitted yet: the successors of those that make room, or the newest of a `debounce`.
        recent: how many were admitted in which slice of time (`throttle`): (number of the slice, count), in order.
    """

    terms: Terms = Terms()
    cursor: int = 0
    inside: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    next: tuple[Waiting, ...] = ()
    recent: tuple[tuple[int, int], ...] = ()


class Notice(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a gate has to tell an execution. `sequence` is that of its ticket, 0 when it has none to stamp."""

    execution_id: str
    kind: NoticeKind
    sequence: int = 0


class GateDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """A gate's one message: its state, and what the change that led to it, at `at` (Unix seconds), has to tell whom."""

    at: float
    state: GateState = GateState()
    notices: tuple[Notice, ...] = ()


_documents = msgspec.json.Decoder(GateDocument)
_tickets = msgspec.json.Decoder(Ticket)


def decode_gate(data: bytes) -> GateDocument:
    """Decode a gate's document. Raises `MessageInvalid`."""
    return _decoded(_documents, data)


def decode_ticket(data: bytes) -> Ticket:
    """Decode a ticket. Raises `MessageInvalid`."""
    return _decoded(_tickets, data)


def _decoded(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageInvalid(str(error)) from error
