"""Compaction: the log of an execution that has ended becomes one message, which says the same in less.

    [1 … K] ── append, under the log's own fence ──► [1 … K, all] ── acknowledged, purge ──► [all]

Nothing is lost on the way: before the purge the log holds both, and readers take the compacted one (`compacted.py` of
the bus). Whoever was killed between the two leaves such a log behind; the next walk meets its end again, and purges.
Two orchestrators cannot append it both, since the fence lets one of them; either may purge.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters.log_walk import LogWalk
from millrace_shared.bus.compacted import UNPACKED_BYTES_MAX, Entry, is_compacted, pack
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import MessageTooLarge, WrongLastSequence
from millrace_shared.bus.log_reader import Stored, read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.streams import MESSAGE_BYTES_MAX
from millrace_shared.codec import decode_transition
from millrace_shared.errors import MessageInvalid, ValueTooLarge
from millrace_shared.messages import ExecutionFinished

log = logging.getLogger(__name__)

HOUR_S = 3_600.0
MESSAGES_MIN = 3
"""A log with fewer messages is left alone."""
PACKED_BYTES_MAX = MESSAGE_BYTES_MAX - 4096
"""Leaves room for the header block. A log whose packed form is larger is left as it is."""
LOOKS_MAX = 3
"""Looks at a log that changes meanwhile. Only another compaction, or its expiry, can change one that has ended."""


class Compaction:
    """Compacts logs every few minutes.

    Args:
        connection: the bus.
        publisher: publishes on it.
        hours: how long after its end a log is compacted; 0: never.
        clock: Unix seconds.
    """

    def __init__(
        self, connection: Connection, publisher: Publisher, hours: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._walk = LogWalk(connection, "compaction", hours * HOUR_S, self._compact, clock)
        self.start, self.stop = self._walk.start, self._walk.stop

    async def compact(self, partition: int) -> int:
        """Compact the logs of a partition that are old enough; return how many those were.

        Raises:
            BusRefused, BusUnavailable: the server does not take it, or did not answer.
            UpgradeNeeded: a log was written by a later version.
        """
        return await self._walk.walk(partition)

    async def _compact(self, found: Stored) -> int:
        """Compact the log that a message is of; return 1 if this process did."""
        if is_compacted(found.payload):  # what it repeats stands before it, and was met first
            return 0
        for _ in range(LOOKS_MAX):
            stored = await self._read(found.subject)
            if stored and is_compacted(stored[-1].payload):  # by somebody else, who may have gone no further
                if len(stored) > 1:
                    await self._purge(found.subject, stored[-1].sequence)
                break
            packed = await asyncio.to_thread(_packed, stored)
            if packed is None:
                break
            try:
                ack = await self._publisher.publish(Outgoing(found.subject, packed, stored[-1].sequence))
            except WrongLastSequence:
                continue
            except MessageTooLarge as error:  # the server's own limit is lower than that of the stream
                log.info("a log stays as it is: %s", error)
                break
            await self._purge(found.subject, ack.seq)
            metrics.logs_compacted.inc()
            metrics.compacted_bytes["before"].inc(sum(len(one.payload) for one in stored))
            metrics.compacted_bytes["after"].inc(len(packed))
            return 1
        return 0

    async def _read(self, subject: str) -> list[Stored]:
        """Return a log as it is stored; nothing if it is too large to be compacted."""
        stored, size_bytes = [], 0
        async for one in read_subject(self._connection, "EVENTS", subject):
            size_bytes += len(one.payload)
            if size_bytes > UNPACKED_BYTES_MAX:
                return []
            stored.append(one)
        return stored

    async def _purge(self, subject: str, compacted: int) -> None:
        """Remove what stands before the compacted log, and never that."""
        await self._connection.jetstream_api("STREAM.PURGE.EVENTS", {"filter": subject, "seq": compacted})


def _packed(stored: Sequence[Stored]) -> bytes | None:
    """Return the compacted form of a log; None for one that is better left as it is.

    That is one that is short, has no end, or is not a whole log that this version can read: people may want to see it
    as it was written.
    """
    if len(stored) < MESSAGES_MIN:
        return None
    try:
        transitions = [decode_transition(one.payload) for one in stored]
        is_whole = [one.version for one in transitions] == list(range(1, len(stored) + 1))
        if not is_whole or not isinstance(transitions[-1].events[-1], ExecutionFinished):
            return None
        packed = pack([Entry(one.sequence, one.payload) for one in stored], transitions[-1].at)
    except (MessageInvalid, ValueTooLarge):
        return None
    is_worth_it = len(packed) < sum(len(one.payload) for one in stored)
    return packed if is_worth_it and len(packed) <= PACKED_BYTES_MAX else None
