"""Messages on their way to a stream: sent in groups that share fsyncs, and again until they are stored.

While one group is on its way the next one gathers, so groups grow with the load and a lone message goes at once. It is
`GroupCommit` for callers that do not wait: a slot goes on to its next attempt while the result of the last is stored.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from millrace_shared.bus.errors import StreamMissing
from millrace_shared.bus.publisher import BATCH_MESSAGES_MAX, Outgoing, Publisher
from millrace_shared.errors import BusUnavailable, MillraceError

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0
GATHER_FROM = 4
GATHER_S = 0.003
"""Under load a group waits this long for more: a batch of fifteen costs the server little more than one of five, and a
lone result still goes at once. Worth a fifth of the executions per second."""
REFUSALS_MAX = 5
"""A server that is starting, or choosing a leader, refuses what it takes a little later. More often is for good."""

Settled = Callable[[MillraceError | None], None]
"""Called once: with None when the message is stored, or with why the server will never take it."""


@dataclass(slots=True)
class _Entry:
    message: Outgoing
    settled: Settled | None
    refusals: int = 0

    def is_over(self, result: int | MillraceError) -> bool:
        """Tell whether `result` is the last word on this message."""
        if isinstance(result, int):
            return True
        if isinstance(result, BusUnavailable | StreamMissing):
            return False
        self.refusals += 1
        return self.refusals > REFUSALS_MAX


class Outbox:
    """Publishes to one stream, in order of arrival, for as long as it takes.

    Args:
        publisher: the bus.
        name: for logs.
        group_max: most messages in one group.
        waiting_max: most messages that wait; more are given up, the newest first. None when the callers bound it.

    Attributes:
        size_bytes: payloads of the messages that are not stored yet.
    """

    def __init__(
        self,
        publisher: Publisher,
        name: str,
        *,
        group_max: int = BATCH_MESSAGES_MAX // 2,
        waiting_max: int | None = None,
    ) -> None:
        self._publisher = publisher
        self._name = name
        self._group_max = group_max
        self._waiting_max = waiting_max
        self._waiting: deque[_Entry] = deque()
        self._in_flight = 0
        self.size_bytes = 0
        self._flushing: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Messages that are not stored yet."""
        return len(self._waiting) + self._in_flight

    def put(self, message: Outgoing, settled: Settled | None = None) -> bool:
        """Take a message over. Returns False when it was given up because too many wait."""
        if self._waiting_max is not None and len(self._waiting) >= self._waiting_max:
            return False
        self._waiting.append(_Entry(message, settled))
        self.size_bytes += len(message.payload)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(), name=f"outbox {self._name}")
        return True

    async def drain(self, timeout_s: float) -> bool:
        """Wait until everything is stored. Returns False when that took longer than `timeout_s`."""
        if self._flushing is None or self._flushing.done():
            return True
        await asyncio.wait([self._flushing], timeout=timeout_s)
        if self._flushing.done():
            return True
        self._flushing.cancel()
        return False

    async def _flush(self) -> None:
        pause_s = BACKOFF_FIRST_S
        while self._waiting:
            if len(self._waiting) >= GATHER_FROM:
                await asyncio.sleep(GATHER_S)
            count = min(len(self._waiting), self._group_max)
            group = [self._waiting.popleft() for _ in range(count)]
            self._in_flight = count
            results = await self._publisher.publish_all([entry.message for entry in group])
            again = []
            for entry, result in zip(group, results, strict=True):
                if not entry.is_over(result):
                    again.append(entry)
                    continue
                self.size_bytes -= len(entry.message.payload)
                error = None if isinstance(result, int) else result
                if error is not None:
                    log.error("%s: the bus will not take %s: %s", self._name, entry.message.subject, error)
                if entry.settled is not None:
                    entry.settled(error)
            self._in_flight = 0
            if not again:
                pause_s = BACKOFF_FIRST_S
                continue
            self._waiting.extendleft(reversed(again))
            log.warning("%s: %d messages wait for the bus; again in %.1f s", self._name, self.waiting, pause_s)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  spreads retries, keeps no secret
            pause_s = min(pause_s * 2, BACKOFF_MAX_S)
