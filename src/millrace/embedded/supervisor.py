"""Keeps processes running: starts them, waits until they are ready, restarts the dead, stops them all.

No thread or timer runs while nothing happens: a child's death wakes the event loop, readiness is probed only
during a start, and logs are measured every few seconds.
"""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from millrace.embedded.errors import UnknownProcessError
from millrace.embedded.events import Listener
from millrace.embedded.keeper import Backoff, Keeper
from millrace.embedded.logs import LOG_CHECK_INTERVAL_S, rotate_if_large
from millrace.embedded.process import ProcessSpec


class Supervisor:
    """Runs processes in stages: those of a stage start together, stages start in order and stop in reverse.

    Args:
        logs: directory of the log files.
        listeners: each is called, in the event loop, with everything that happens; must not block.
        backoff: how long restarts wait.
    """

    def __init__(self, logs: Path, *, listeners: Sequence[Listener] = (), backoff: Backoff | None = None) -> None:
        self._logs = logs
        self._listeners = tuple(listeners)
        self._backoff = backoff or Backoff()
        self._stages: list[list[Keeper]] = []
        self._hurry = asyncio.Event()
        self._rotation: asyncio.Task[None] | None = None

    async def start(self, stage: Sequence[ProcessSpec]) -> None:
        """Start these processes together and return when all of them are ready.

        Raises:
            ProcessStartError: one exited, or was not ready in time. The others are left as they are: `stop`
                ends everything.
        """
        if self._rotation is None:
            self._rotation = asyncio.create_task(self._rotate_logs(), name="log rotation")
        keepers = [Keeper(spec, self.log_path(spec.name), self._listeners, self._backoff) for spec in stage]
        self._stages.append(keepers)
        starts = [asyncio.create_task(keeper.start()) for keeper in keepers]
        try:
            await asyncio.gather(*starts)
        finally:  # one failed, or we were cancelled: the others stop starting
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    async def stop(self) -> None:
        """Stop every process, the last stage first, each with its signal and grace. May be called again."""
        while self._stages:
            await asyncio.gather(*(keeper.stop(self._hurry) for keeper in self._stages[-1]))
            self._stages.pop()
        if self._rotation is not None:
            self._rotation.cancel()
            with suppress(asyncio.CancelledError):
                await self._rotation
            self._rotation = None

    def hurry(self) -> None:
        """Let a `stop` that is under way, or comes, wait for nobody: SIGKILL at once."""
        self._hurry.set()

    @property
    def names(self) -> list[str]:
        """The processes, in the order in which they were started."""
        return [keeper.spec.name for stage in self._stages for keeper in stage]

    def log_path(self, name: str) -> Path:
        """Where a process's output goes."""
        return self._logs / f"{name}.log"

    def pid(self, name: str) -> int | None:
        """The process's pid now, or None while it is down."""
        return self._keeper(name).pid

    def is_ready(self, name: str) -> bool:
        """Whether the process passed its readiness probe and has not died since."""
        return self._keeper(name).is_ready

    def restarts(self, name: str) -> int:
        """How many times the process came back after it died."""
        return self._keeper(name).restarts

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send the process a signal. After one that ends it, `wait_ready` waits for its successor.

        Returns:
            The pid that was signalled.

        Raises:
            ProcessLookupError: it is down at the moment.
        """
        return self._keeper(name).kill(number)

    async def restart(self, name: str) -> None:
        """Stop the process cleanly, start it again at once, and return when it is ready."""
        await self._keeper(name).restart(self._hurry)

    async def wait_ready(self, name: str, timeout_s: float = 30.0) -> None:
        """Return when the process is ready.

        Raises:
            TimeoutError: it was not within `timeout_s` seconds.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._keeper(name).wait_ready()
        except TimeoutError:
            raise TimeoutError(f"{name} is not ready after {timeout_s:g} s; see {self.log_path(name)}") from None

    def _keeper(self, name: str) -> Keeper:
        for stage in self._stages:
            for keeper in stage:
                if keeper.spec.name == name:
                    return keeper
        raise UnknownProcessError(name, self.names)

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(LOG_CHECK_INTERVAL_S)
            for name in self.names:
                await asyncio.to_thread(rotate_if_large, self.log_path(name))
