"""Waiting with a limit, where a process that stops ends every wait at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Deadlines:
    """The waits of one kind that are going on."""

    def __init__(self) -> None:
        self._open: set[asyncio.Timeout] = set()
        self._stopped = False

    @contextlib.asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """Bound what happens in the context.

        Raises:
            TimeoutError: it took longer, or the process stops.
        """
        async with asyncio.timeout(0 if self._stopped else seconds) as deadline:
            self._open.add(deadline)
            try:
                yield
            finally:
                self._open.discard(deadline)

    def stop(self) -> None:
        """End every wait now, as if its time had run out, and those that are only about to begin."""
        self._stopped = True
        now = asyncio.get_running_loop().time()
        for deadline in self._open:
            deadline.reschedule(now)
