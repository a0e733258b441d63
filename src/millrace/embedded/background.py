"""A stack for code without an event loop: it runs in a thread, and its calls wait."""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from millrace.embedded.stack import EmbeddedStack

T = TypeVar("T")


class BackgroundStack:
    """An `EmbeddedStack` as a plain context manager.

    The thread that runs the loop is also the one that starts the processes: the kernel ties their lives to
    it.

    Args:
        stack: not started yet. Its own attributes may be read; its coroutines go through `run`.
    """

    def __init__(self, stack: EmbeddedStack) -> None:
        self.stack = stack
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="embedded stack", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.run(self.stack.start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.run(self.stack.stop())
        finally:
            self._end()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the stack's loop and wait for its result."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C in the waiting thread reaches the coroutine as a cancellation
            future.cancel()
            raise

    @property
    def nats_url(self) -> str:
        """See `EmbeddedStack.nats_url`."""
        return self.stack.nats_url

    @property
    def database_url(self) -> str:
        """See `EmbeddedStack.database_url`."""
        return self.stack.database_url

    @property
    def api_url(self) -> str:
        """See `EmbeddedStack.api_url`."""
        return self.stack.api_url

    @property
    def api_key(self) -> str:
        """See `EmbeddedStack.api_key`."""
        return self.stack.api_key

    def pid(self, name: str) -> int | None:
        """The process's pid now, or None while it is down."""
        return self.stack.supervisor.pid(name)

    def restarts(self, name: str) -> int:
        """How many times the process came back."""
        return self.stack.supervisor.restarts(name)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a process a signal; returns the pid. The supervisor brings it back, see `wait_ready`."""

        async def kill() -> int:
            return self.stack.kill(name, number)

        return self.run(kill())

    def suspend(self, name: str) -> int:
        """Have a process stand still, with all its connections open, until `resume`; returns the pid."""
        return self.kill(name, signal.SIGSTOP)

    def resume(self, name: str) -> int:
        """Let a process go on after a `suspend`; returns the pid."""
        return self.kill(name, signal.SIGCONT)

    def restart(self, name: str) -> None:
        """Stop a process cleanly and start it again; returns when it is ready."""
        self.run(self.stack.restart(name))

    def wait_ready(self, name: str, timeout_s: float = 30.0) -> None:
        """Return when the process is ready (after a `kill`: its successor)."""
        self.run(self.stack.wait_ready(name, timeout_s))

    def _end(self) -> None:
        """Let what is still scheduled finish its clean-up, then end the loop and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
