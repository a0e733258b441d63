"""One execution's log as it grows: every transition once, in order, the stored ones first.

Live messages (`live.<p>.<exec>`, at most once) are the fast path; the stored log is the truth. Versions are
consecutive, so a live message that was missed shows as a gap, and the gap is read from the log. The same happens after
a reconnect, and when the reader is so slow that more than `PENDING_MAX` live messages wait: memory is bounded and
nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from millrace_shared import subjects
from millrace_shared.bus.compacted import is_compacted
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import transitions_of
from millrace_shared.codec import decode_transition
from millrace_shared.messages import ExecutionFinished, Transition

PENDING_MAX = 256
READ_MAX = 512
"""Stored transitions that are held at once."""
REREAD_S = 0.05
"""Pause before a log is read again that does not show a transition yet which was seen live (a replica lags)."""


def is_final(transition: Transition) -> bool:
    """Tell whether nothing comes after `transition`."""
    return bool(transition.events) and isinstance(transition.events[-1], ExecutionFinished)


class LogFollower:
    """Follows one execution. An async context manager; open it before whatever makes the log grow.

    Args:
        connection: the bus.
        execution_id: whose log.
        after_version: the last version that the reader has already.
        stored: whether the log may hold transitions already. An execution that is about to be accepted has none.
        on_signal: called when something new may be there, besides waking `next`.
        quiet_until: a live message that does not hold these bytes is kept, but wakes nobody.
    """

    def __init__(
        self,
        connection: Connection,
        execution_id: str,
        *,
        after_version: int = 0,
        stored: bool = True,
        on_signal: Callable[[], None] | None = None,
        quiet_until: bytes = b"",
    ) -> None:
        self._connection = connection
        self._execution_id = execution_id
        self._version = after_version
        self._behind = stored
        self._pending: deque[bytes] = deque()
        self._ready: deque[Transition] = deque()
        self._signal = asyncio.Event()
        self._on_signal = on_signal
        self._quiet_until = quiet_until
        self._sequence = 0
        self._seen_live = 0
        self._subscription: Any = None

    async def __aenter__(self) -> Self:
        self._subscription = await self._connection.listen(subjects.live(self._execution_id), self._on_live)
        self._connection.on_reconnect.append(self.catch_up)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.on_reconnect.remove(self.catch_up)
        await self._connection.unlisten(self._subscription)

    def catch_up(self) -> None:
        """Read the stored log before anything live: something may have been missed."""
        self._behind = True
        self._wake()

    def _on_live(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        if is_compacted(payload):  # it repeats what was live long ago
            return
        if len(self._pending) >= PENDING_MAX:
            self._pending.clear()
            self._behind = True
        if not self._behind:
            self._pending.append(payload)
        if self._quiet_until in payload:
            self._wake()

    def _wake(self) -> None:
        self._signal.set()
        if self._on_signal is not None:
            self._on_signal()

    async def next(self) -> Transition:
        """Return the next transition, waiting for it.

        Raises:
            BusUnavailable: the stored log was needed and cannot be read.
        """
        while True:
            transition = await self.poll()
            if transition is not None:
                return transition
            await self._signal.wait()

    async def poll(self) -> Transition | None:
        """Return the next transition, or None when there is none yet."""
        while True:
            self._signal.clear()
            if self._ready:
                transition = self._ready.popleft()
            elif self._behind:
                await self._read()
                if self._ready:
                    continue
                if self._seen_live <= self._version:
                    return None
                self._behind = True
                await asyncio.sleep(REREAD_S)
                continue
            elif self._pending:
                transition = decode_transition(self._pending.popleft())
            else:
                return None
            if transition.version <= self._version:
                continue
            if transition.version > self._version + 1:
                self._seen_live = transition.version
                self._behind = True
                continue
            self._version = transition.version
            return transition

    async def _read(self) -> None:
        # What arrives while the log is read is in the log, or comes live after it: so live messages count again
        # from before the read, and the version check drops those that come twice.
        self._behind = False
        try:
            async for stored in transitions_of(self._connection, self._execution_id, self._sequence + 1):
                self._sequence = stored.sequence
                self._ready.append(decode_transition(stored.payload))
                if len(self._ready) >= READ_MAX:
                    self._behind = True
                    return
        except BaseException:
            self._behind = True
            self._ready.clear()
            self._sequence = 0
            raise
