"""The walk: the whole log is read once more, in order, at a distance, to find what has an end there.

A cursor for each partition stands at the first message that is younger than the distance. A run reads no message twice
and at most `MESSAGES_MAX` in a partition; when nothing has grown old it reads one. A cursor need not outlive its
process, and several orchestrators may walk at once, if what is done on the way may be done again.

A compacted log counts as old as the execution's end, and stands among messages that are younger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec

from millrace_shared.bus.compacted import heading_of, is_compacted
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import Stored, read_next, read_subject
from millrace_shared.errors import MessageInvalid, MillraceError
from millrace_shared.ids import PARTITION_COUNT

log = logging.getLogger(__name__)

RUN_EVERY_S = 600.0
RUN_EVERY_S_MIN = 1.0
"""A distance of less than `RUN_EVERY_S` is walked as often as it lasts, but not more often than this."""
MESSAGES_MAX = 50_000
"""Messages that one run reads in a partition: more than grow old meanwhile, and a bound."""

AtEnd = Callable[[Stored], Awaitable[int]]
"""What is done with a message that may hold the end of an execution; returns how many logs it changed."""


class _When(msgspec.Struct):
    """When a transition was decided, without reading the rest of it."""

    at: float


_when = msgspec.json.Decoder(_When)


class LogWalk:
    """Walks every few minutes.

    Args:
        connection: the bus.
        name: what for, in the words of the log.
        distance_s: how old a message must be to be looked at, in seconds; 0: there is no walk.
        at_end: see `AtEnd`.
        clock: Unix seconds.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        distance_s: float,
        at_end: AtEnd,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._name = name
        self._distance_s = distance_s
        self._at_end = at_end
        self._clock = clock
        self._cursors = [1] * PARTITION_COUNT
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to walk, for the first time after a while."""
        if self._distance_s:
            self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Walk no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def walk(self, partition: int) -> int:
        """Go on in a partition as far as messages are old enough; return how many logs were changed.

        Raises:
            BusRefused, BusUnavailable, UpgradeNeeded: what `at_end` raises. The next run begins with that message.
        """
        changed, subject = 0, f"ev.{partition}.*"
        before = self._clock() - self._distance_s
        first = await read_next(self._connection, "EVENTS", subject, self._cursors[partition])
        if first is None or _at(first.payload) > before:
            return 0
        count = 0
        async for stored in read_subject(self._connection, "EVENTS", subject, first.sequence):
            if _at(stored.payload) > before or count == MESSAGES_MAX:
                break
            count += 1
            if b'"execution.finished"' in stored.payload or is_compacted(stored.payload):
                changed += await self._at_end(stored)
            self._cursors[partition] = stored.sequence + 1
        return changed

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(max(RUN_EVERY_S_MIN, min(RUN_EVERY_S, self._distance_s)))
            try:
                if await self._is_kept():
                    log.warning("EVENTS lets nobody remove anything: no %s; docs/adr/0014 says why", self._name)
                    return
            except MillraceError as error:
                log.warning("%s waits for EVENTS: %s", self._name, error)
                continue
            for partition in range(PARTITION_COUNT):
                try:
                    await self.walk(partition)
                except MillraceError as error:
                    log.warning("%s of partition %d goes on later: %s", self._name, partition, error)

    async def _is_kept(self) -> bool:
        """Tell whether the stream was made by a version that let nobody remove anything."""
        info = await self._connection.jetstream_api("STREAM.INFO.EVENTS")
        return bool(info["config"].get("deny_purge"))


def _at(payload: bytes) -> float:
    """Return when a transition was decided; what cannot be read is as old as can be, and has no end."""
    try:
        return heading_of(payload).at if is_compacted(payload) else _when.decode(payload).at
    except (MessageInvalid, msgspec.DecodeError, UnicodeDecodeError):
        return 0.0
