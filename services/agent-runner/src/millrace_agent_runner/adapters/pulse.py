"""Noticing that this process was stopped: by a signal, a suspended machine, or a processor that others had.

The server goes on while a process stands still: it waits for acknowledgements in vain and gives the work to others, and
what it had delivered meanwhile lies in the socket, looking new. So a timer beats, and a gap between two beats that is
as long as the server's patience makes every delivery suspect that was read before an answer to a question asked after
it.
"""

from __future__ import annotations

import asyncio
import logging
import time

from nats.errors import Error as NatsError

from millrace_shared.bus.connection import Connection
from millrace_shared.bus.streams import WORK_ACK_WAIT_S

log = logging.getLogger(__name__)

BEAT_S = 1.0
FLUSH_S_MAX = 10.0
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def clock() -> float:
    """Return seconds that go on while the machine is suspended, which those of Linux's `time.monotonic` do not."""
    return time.clock_gettime(_CLOCK)


class Pulse:
    """The beat of the process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._beat = clock()
        self._beat_wall = time.time()
        self._stopped_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to beat."""
        self._beat, self._beat_wall = clock(), time.time()
        self._task = asyncio.create_task(self._go_on(), name="pulse")

    async def stop(self) -> None:
        """Beat no more."""
        tasks = [task for task in (self._task, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def stopped_at(self) -> float | None:
        """Return when this process was stopped, if what is read now may have been sent meanwhile; else None.

        Unix seconds, and early rather than late.
        """
        self._check()  # what was read first after the gap may be handled before the timer is
        return self._stopped_at

    def _check(self) -> None:
        now = clock()
        gap_s = now - self._beat
        if gap_s < WORK_ACK_WAIT_S:
            return
        log.warning("this process stood still for %.1f s; others may have taken over its work", gap_s)
        self._stopped_at = self._beat_wall
        self._beat, self._beat_wall = now, time.time()
        if self._reading is not None:
            self._reading.cancel()
        self._reading = asyncio.create_task(self._catch_up(), name="pulse, catching up")

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self._check()
            self._beat, self._beat_wall = clock(), time.time()

    async def _catch_up(self) -> None:
        """Everything that was sent before the gap ended comes before the answer to a ping."""
        try:
            await self._connection.flush(FLUSH_S_MAX)  # type: ignore[arg-type]  # seconds; fractions are fine
        except (NatsError, OSError) as error:  # the connection is gone, and with it what it held
            log.info("the connection did not outlive the gap: %s", error or type(error).__name__)
        self._stopped_at = None
