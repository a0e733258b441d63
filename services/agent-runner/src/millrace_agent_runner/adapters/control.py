"""What runners are told, and tell one another, on `ctl.` subjects: never stored, and lost without harm."""

from __future__ import annotations

import msgspec


class Cancel(msgspec.Struct):
    """`ctl.cancel.<exec>`: attempts to stop, by their keys. An empty payload, or None, is all of the execution."""

    attempts: frozenset[str] | None = None


class Taken(msgspec.Struct):
    """`ctl.taken.<exec>`: the key of an attempt that is performed anew, and which delivery of its message that is."""

    attempt: str
    delivery: int


decode_cancel = msgspec.json.Decoder(Cancel).decode
decode_taken = msgspec.json.Decoder(Taken).decode
