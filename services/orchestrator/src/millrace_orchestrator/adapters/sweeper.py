"""Sweeping the inbox: what everybody has acknowledged is removed, in one go and now and then.

Nothing is removed by age: a stack that was off for a month must find what it has accepted. What lies before the oldest
message that any partition still holds is of no use, since the log has it. Leases on long executions do not stand in the
way: they are put anew at the end of the stream (`LEASE_DELIVERIES_MAX`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from millrace_orchestrator import metrics
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_next
from millrace_shared.errors import MillraceError
from millrace_shared.ids import PARTITION_COUNT

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 300.0


class Sweeper:
    """Sweeps every few minutes. Several orchestrators doing so do no harm."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to sweep, for the first time after a while."""
        self._task = asyncio.create_task(self._run(), name="sweeper")

    async def stop(self) -> None:
        """Sweep no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def sweep(self) -> int:
        """Remove what is acknowledged in every partition; return how many messages that were.

        Raises:
            BusRefused, BusUnavailable: the server did not do it.
        """
        # Before the consumers are asked: what arrives in between is not taken for acknowledged.
        state = (await self._connection.jetstream_api("STREAM.INFO.INBOX"))["state"]
        floor = int(state["last_seq"])
        for partition in range(PARTITION_COUNT):
            consumer = await self._connection.jetstream_api(f"CONSUMER.INFO.INBOX.inbox-{partition}")
            if consumer["num_pending"] or consumer["num_ack_pending"]:
                after = int(consumer["ack_floor"]["stream_seq"]) + 1
                oldest = await read_next(self._connection, "INBOX", f"in.{partition}.>", after)
                floor = min(floor, (oldest.sequence if oldest else after) - 1)
        if floor < int(state["first_seq"]):
            return 0
        answer = await self._connection.jetstream_api("STREAM.PURGE.INBOX", {"seq": floor + 1})
        return int(answer["purged"])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                removed = await self.sweep()
            except MillraceError as error:
                log.warning("the inbox is swept later: %s", error)
            else:
                metrics.swept.inc(removed)
