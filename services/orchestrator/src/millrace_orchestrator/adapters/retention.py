"""Retention: the logs of executions that ended long ago are removed. What they came to stays in Postgres.

Which ended when is told by the log itself. It is read once more, in order, as it grows old: a cursor for each partition
stands at the first message that is younger than the retention. What has an end before the cursor is removed as a whole,
by its exact subject, so that the log of a running execution is never touched. A child's log stays until the execution
at the top has ended, and is removed with that of its parent at the latest.

Several orchestrators doing so do no harm, and a cursor need not outlive its process: old messages that are still there
are those of executions that have not ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import msgspec

from millrace_orchestrator import metrics
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.log_reader import read_last, read_log, read_next, read_subject
from millrace_shared.codec import decode_transition
from millrace_shared.errors import MessageInvalid, MillraceError
from millrace_shared.ids import PARTITION_COUNT
from millrace_shared.messages import ExecutionFinished, ExecutionStarted, StepScheduled, Transition

log = logging.getLogger(__name__)

DAY_S = 86_400.0
RUN_EVERY_S = 600.0
RUN_EVERY_S_MIN = 1.0
"""A retention of less than `RUN_EVERY_S` is looked after as often as it lasts, but not more often than this."""
MESSAGES_MAX = 50_000
"""Messages that one run reads in a partition: more than grow old meanwhile, and a bound."""


class _When(msgspec.Struct):
    """When a transition was decided, without reading the rest of it."""

    at: float


_when = msgspec.json.Decoder(_When)


class Retention:
    """Removes logs every few minutes.

    Args:
        connection: the bus.
        days: how long a log is kept after its end; 0: for ever.
        clock: Unix seconds.
    """

    def __init__(self, connection: Connection, days: float, clock: Callable[[], float] = time.time) -> None:
        self._connection = connection
        self._age_s = days * DAY_S
        self._clock = clock
        self._cursors = [1] * PARTITION_COUNT
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to remove what is old, for the first time after a while."""
        if self._age_s:
            self._task = asyncio.create_task(self._run(), name="retention")

    async def stop(self) -> None:
        """Remove nothing more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def expire(self, partition: int) -> int:
        """Remove the logs of a partition that are old enough; return how many those were.

        Raises:
            BusRefused: the stream was made by a version that let nobody remove anything.
            BusUnavailable: the server did not answer.
        """
        removed, subject = 0, f"ev.{partition}.*"
        before = self._clock() - self._age_s
        first = await read_next(self._connection, "EVENTS", subject, self._cursors[partition])
        if first is None or _at(first.payload) > before:
            return 0
        count = 0
        async for stored in read_subject(self._connection, "EVENTS", subject, first.sequence):
            if _at(stored.payload) > before or count == MESSAGES_MAX:
                break
            count += 1
            if b'"execution.finished"' in stored.payload:
                removed += await self._expire(subjects.execution_id_of(stored.subject))
            self._cursors[partition] = stored.sequence + 1
        return removed

    async def _expire(self, execution_id: str) -> int:
        """Remove the log of an execution, and those of its children; return how many."""
        transitions = await self._ended(execution_id)
        if not transitions:
            return 0
        started = transitions[0].events[0]
        if isinstance(started, ExecutionStarted) and started.request.parent is not None:
            root = started.request.parent.root
            if await read_last(self._connection, "EVENTS", subjects.log(root)) and not await self._ended(root):
                return 0
        removed, family = 0, [execution_id]
        while family:  # one log at a time: a list may have ten thousand children
            execution_id = family.pop()
            transitions = await self._ended(execution_id)
            if transitions:
                await self._connection.jetstream_api("STREAM.PURGE.EVENTS", {"filter": subjects.log(execution_id)})
                removed += 1
            scheduled = (event for one in transitions for event in one.events if isinstance(event, StepScheduled))
            family += dict.fromkeys(event.child for event in scheduled if event.child)
        return removed

    async def _ended(self, execution_id: str) -> list[Transition]:
        """Return the log of an execution if it has an end, else nothing."""
        stored = await read_log(self._connection, execution_id)
        try:
            transitions = [decode_transition(one.payload) for one in stored]
        except MessageInvalid:
            return []
        has_end = bool(transitions) and isinstance(transitions[-1].events[-1], ExecutionFinished)
        return transitions if has_end else []

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(max(RUN_EVERY_S_MIN, min(RUN_EVERY_S, self._age_s)))
            for partition in range(PARTITION_COUNT):
                try:
                    metrics.logs_expired.inc(await self.expire(partition))
                except BusRefused as error:
                    log.warning("no log is removed, however old: %s; docs/adr/0004 says how to change that", error)
                    return
                except MillraceError as error:
                    log.warning("old logs of partition %d are removed later: %s", partition, error)


def _at(payload: bytes) -> float:
    """Return when a transition was decided; what cannot be read is as old as can be, and has no end."""
    try:
        return _when.decode(payload).at
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0.0
