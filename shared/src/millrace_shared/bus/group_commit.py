"""Group commit: concurrent publishers of one process share batches, and so fsyncs.

While one group is on its way the next one gathers. A lone message goes at once; under load the groups grow by
themselves, with no timer to tune.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.errors import BusUnavailable

GROUP_MESSAGES_MAX = 500
WAITING_MAX = 20_000
"""More than this many messages waiting are refused: the bus is not keeping up."""


class GroupCommit:
    """Publishes to one stream for any number of concurrent callers."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._waiting: list[tuple[Outgoing, asyncio.Future[int]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def publish(self, message: Outgoing) -> int:
        """Publish one message; return its stream sequence once it is stored.

        Raises:
            WrongLastSequence: the fence was lost.
            BusRefused: the server refused it otherwise.
            BusUnavailable: no answer came, or too many messages wait already.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise BusUnavailable(f"{WAITING_MAX} messages wait for NATS already; try again later")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(), name="group commit")
        return await future

    async def drain(self) -> None:
        """Return when everything that was handed over is settled."""
        while self._flushing is not None and not self._flushing.done():
            await asyncio.wait([self._flushing])

    async def _flush(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:GROUP_MESSAGES_MAX], self._waiting[GROUP_MESSAGES_MAX:]
            results: Sequence[int | Exception]
            try:
                results = await self._publisher.publish_all([message for message, _ in group])
            except Exception as error:  # noqa: BLE001  whatever it is, each caller of this group has to know
                results = [error] * len(group)
            for (_, future), result in zip(group, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, int):
                    future.set_result(result)
                else:
                    future.set_exception(result)
