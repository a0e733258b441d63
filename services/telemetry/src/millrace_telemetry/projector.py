"""The loop that projects one stream: lead, read the offset, follow from there, write batch after batch.

    lead ──► offset ──► follow ──► batch ──► write (rows and offset in one transaction) ──┐
      ▲                              ▲                                                    │
      │ Postgres away, fence lost    └────────────────────────────────────────────────────┘

Whatever happens between any two of these steps, the next round begins at the committed offset: nothing is lost, and
nothing is written twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from millrace_shared.errors import DatabaseUnavailable, MessageInvalid, MillraceError, TerminalError
from millrace_telemetry.adapters.follower import Follower, Message
from millrace_telemetry.adapters.graveyard import Graveyard
from millrace_telemetry.adapters.store import BEAT_S, Offset, Store
from millrace_telemetry.domain.batch import Batch, FactBatch, LogBatch
from millrace_telemetry.errors import OffsetMoved, ValueRefused
from millrace_telemetry.metrics import EVENTS_PROJECTED, StreamMetrics
from millrace_telemetry.unfolding import Item, compacted_of, unfold

log = logging.getLogger(__name__)

BACKOFF_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
LINGER_S = 0.02
"""A batch waits this long for company. Larger transactions cost less, and the processor belongs to the executions:
nobody waits for the projection, since what it does not hold yet is read from the log."""


@dataclass(frozen=True, slots=True)
class Projection:
    """One stream and what becomes of its messages. `filters` are the subjects to read; empty for all."""

    stream: str
    new_batch: Callable[[], Batch]
    filters: tuple[str, ...] = ()


LOG = Projection("EVENTS", LogBatch)
FACTS = Projection("TELEMETRY", FactBatch, ("tel.*.*.step_started", "tel.*.*.llm_call"))
"""Streamed tokens are most of TELEMETRY, and no table keeps them: the server leaves them out."""
PROJECTIONS = (LOG, FACTS)


class Projector:
    """Projects one stream for as long as it runs.

    Args:
        projection: what to project.
        open_store: connects to Postgres for this stream.
        new_follower: makes a follower of this stream, not started yet.
        graveyard: where messages go that cannot be projected.
        metrics: the stream's metrics.
        batch_max: most messages in one transaction.
    """

    def __init__(
        self,
        projection: Projection,
        open_store: Callable[[], Awaitable[Store]],
        new_follower: Callable[[], Follower],
        graveyard: Graveyard,
        metrics: StreamMetrics,
        *,
        batch_max: int,
    ) -> None:
        self._projection = projection
        self._open_store = open_store
        self._new_follower = new_follower
        self._graveyard = graveyard
        self._metrics = metrics
        self._batch_max = batch_max
        self._offset = Offset()
        self._failures = 0
        self._trouble: str | None = "it has not connected yet"

    async def run(self) -> None:
        """Project until cancelled. Every failure is logged, shown by `check`, and followed by another try."""
        while True:
            try:
                await self._round()
            except OffsetMoved as error:
                self._metrics.fence_lost.inc()
                self._log_trouble(str(error), logging.WARNING)
            except TerminalError as error:
                self._log_trouble(str(error), logging.ERROR)
            except MillraceError as error:
                self._log_trouble(str(error), logging.WARNING)
            except Exception:
                log.exception("projecting %s failed; it will be tried again", self._projection.stream)
                self._trouble = "an unexpected error: see the log of this process"
            finally:
                self._metrics.leading.set(0)
            await asyncio.sleep(BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)])
            self._failures += 1

    async def check(self) -> None:
        """Raise when the stream is not being projected, by this process or by another that leads.

        Raises:
            DatabaseUnavailable: why not.
        """
        if self._trouble is not None:
            raise DatabaseUnavailable(f"{self._projection.stream} is not projected: {self._trouble}")

    def _log_trouble(self, reason: str, level: int) -> None:
        if reason != self._trouble:  # a database that is away for an hour is not worth a line each five seconds
            log.log(level, "projecting %s: %s", self._projection.stream, reason)
        self._trouble = reason

    async def _round(self) -> None:
        store = await self._open_store()
        try:
            self._trouble = None
            await store.lead()
            follower = self._new_follower()
            store.on_lost(lambda: follower.interrupt(DatabaseUnavailable("Postgres closed the connection")))
            await store.on_reset(lambda: follower.interrupt(OffsetMoved("the tables are being rebuilt")))
            self._offset = await store.offset()
            self._metrics.leading.set(1)
            log.info("projecting %s from %d", self._projection.stream, self._offset.sequence + 1)
            try:
                await follower.start(self._offset.sequence, self._offset.subject)
                await self._project(store, follower)
            finally:
                await follower.stop()
        finally:
            await store.close()

    async def _project(self, store: Store, follower: Follower) -> None:
        while True:
            messages = await follower.batch(self._batch_max, LINGER_S, BEAT_S)
            if messages:
                known = await store.versions(compacted_of(messages))
                items = unfold(messages, self._offset, known)
                while part := list(islice(items, self._batch_max)):
                    await self._write(store, part, set())
            else:
                await store.beat()
            self._failures = 0
            self._metrics.lag.set(follower.lag)

    async def _write(self, store: Store, items: Sequence[Item], buried: set[int]) -> None:
        """Write `items` as one batch; if Postgres refuses a value, find the message that holds it.

        `buried` holds the sequences of messages that are in DEAD already, because a larger batch held them.
        """
        messages = [item.message for item in items if item.message is not None]
        batch = await self._batch_of(messages, buried)
        offset = items[-1].offset
        began = time.perf_counter()
        try:
            await store.write(batch, self._offset, offset)
        except ValueRefused as error:
            if len(items) == 1:
                await self._bury(messages[0], str(error))
                await store.write(self._projection.new_batch(), self._offset, offset)
            else:
                half = len(items) // 2
                await self._write(store, items[:half], buried)
                await self._write(store, items[half:], buried)
                return
        self._offset = offset
        self._measure(batch, len(messages), time.perf_counter() - began)
        self._metrics.unfolded.inc(sum(item.was_unfolded for item in items))

    async def _batch_of(self, messages: Sequence[Message], buried: set[int]) -> Batch:
        batch = self._projection.new_batch()
        for message in messages:
            if message.sequence in buried:
                continue
            try:
                batch.add(message.subject, message.sequence, message.payload)
            except MessageInvalid as error:
                await self._bury(message, str(error))
                buried.add(message.sequence)
        return batch

    async def _bury(self, message: Message, reason: str) -> None:
        if await self._graveyard.bury(message, reason):
            self._metrics.dead.inc()

    def _measure(self, batch: Batch, message_count: int, transaction_s: float) -> None:
        metrics = self._metrics
        metrics.messages.inc(message_count)
        metrics.batch.observe(message_count)
        metrics.transaction_s.observe(transaction_s)
        metrics.sequence.set(self._offset.sequence)
        if batch.event_count:
            EVENTS_PROJECTED.inc(batch.event_count)
