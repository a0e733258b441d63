"""The form of a compacted log: one message that holds every transition of an execution that has ended.

    millrace log 1⏎ {"count": 7, "last": 1041, "at": 1790000000.5}⏎ <zlib: MessagePack [[sequence, payload], …]>

Nothing is lost and nothing is changed: each transition keeps the bytes that were stored, whatever their version, and
the stream sequence that it had, by which clients go on reading. The heading tells what most readers of such a message
want to know without unpacking it. A version that does not know this form finds a message that is no JSON, and buries
or refuses it as it does any other; it never takes it for a transition.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from millrace_shared.bus.compacted_dictionary import DICTIONARY
from millrace_shared.errors import MessageInvalid, ValueTooLarge

MARK = b"millrace log 1\n"
HEADING_BYTES_MAX = 256
UNPACKED_BYTES_MAX = 32 * 1024 * 1024
"""What a compacted message may unpack to. Longer logs are left as they are, and what claims to be longer is refused."""
LEVEL = 6


class Entry(NamedTuple):
    """One transition as it was stored: its stream sequence, and its bytes."""

    sequence: int
    payload: bytes


class Heading(msgspec.Struct, frozen=True):
    """What a compacted log holds.

    Attributes:
        count: its transitions; also the version of the last one, since versions count from 1.
        last: the stream sequence that the last one had.
        at: when the last one was decided, in Unix seconds.
    """

    count: int
    last: int
    at: float


_heading = msgspec.json.Decoder(Heading)
_entries = msgspec.msgpack.Decoder(list[Entry])


def is_compacted(payload: bytes) -> bool:
    """Tell whether a message of EVENTS is a compacted log rather than a transition."""
    return payload.startswith(MARK)


def pack(entries: Sequence[Entry], at: float) -> bytes:
    """Return the message that holds a whole log.

    Args:
        entries: every transition from the first to the last, in order; at least one.
        at: when the last one was decided, in Unix seconds.

    Raises:
        ValueTooLarge: the log is over `UNPACKED_BYTES_MAX`.
    """
    body = msgspec.msgpack.encode(entries)
    if len(body) > UNPACKED_BYTES_MAX:
        raise ValueTooLarge(f"a log of {len(body)} bytes is not compacted: the limit is {UNPACKED_BYTES_MAX}")
    heading = msgspec.json.encode(Heading(len(entries), entries[-1].sequence, at))
    packing = zlib.compressobj(LEVEL, zdict=DICTIONARY)
    return b"%b%b\n%b%b" % (MARK, heading, packing.compress(body), packing.flush())


def heading_of(payload: bytes) -> Heading:
    """Return the heading of a compacted log.

    Raises:
        MessageInvalid: it is none.
    """
    return _split(payload)[0]


def expand(payload: bytes) -> list[Entry]:
    """Return what `pack` was given.

    Raises:
        MessageInvalid: it is not a compacted log, is damaged, or unpacks to more than `UNPACKED_BYTES_MAX`.
    """
    heading, start = _split(payload)
    unpacking = zlib.decompressobj(zdict=DICTIONARY)
    try:
        body = unpacking.decompress(memoryview(payload)[start:], UNPACKED_BYTES_MAX + 1)
        if len(body) > UNPACKED_BYTES_MAX:
            raise MessageInvalid(f"a compacted log unpacks to more than {UNPACKED_BYTES_MAX} bytes")
        if not unpacking.eof or unpacking.unused_data:
            raise MessageInvalid("a compacted log is cut off, or something stands behind it")
        entries = _entries.decode(body)
    except (zlib.error, msgspec.DecodeError) as error:
        raise MessageInvalid(f"a compacted log cannot be unpacked: {error}") from error
    is_ordered = all(before.sequence < after.sequence for before, after in pairwise(entries))
    if len(entries) != heading.count or not entries or entries[-1].sequence != heading.last or not is_ordered:
        raise MessageInvalid("a compacted log does not hold what its heading says")
    return entries


def _split(payload: bytes) -> tuple[Heading, int]:
    """Return the heading, and where the packed body begins."""
    end = payload.find(b"\n", len(MARK), len(MARK) + HEADING_BYTES_MAX)
    if not is_compacted(payload) or end < 0:
        raise MessageInvalid("a message is not a compacted log")
    try:
        return _heading.decode(payload[len(MARK) : end]), end + 1
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MessageInvalid(f"a compacted log has no heading: {error}") from error
