"""Threads for functions that block: bounded, and never in the way of the process's end.

The standard executor joins its threads when the interpreter ends, so a function that never returns would keep a
drained runner alive. These are daemon threads. One that outlives its attempt's deadline goes on unwatched, since
Python cannot stop a thread; it counts against the limit until it returns. When all are held, what comes next waits for
one, until its own deadline: a lack of threads is no fault of the step that needs one. The service is not ready then.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from millrace_agent_runner.errors import ThreadsHeld

_Job = tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


class Threads:
    """At most `limit` threads, started when needed and kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._started = 0
        self._wanted = 0
        self._lock = threading.Lock()

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run `function` in a thread and return its result. When cancelled, the thread goes on unwatched."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._wanted += 1
            start = self._started < min(self._wanted, self._limit)
            self._started += start
        if start:
            threading.Thread(target=self._work, name=f"step-{self._started}", daemon=True).start()
        future: asyncio.Future[Any] = loop.create_future()
        context = copy_context()
        self._jobs.put((lambda: context.run(function), future, loop))
        return await future

    async def check(self) -> None:
        """Raise when every thread is held and more are wanted."""
        if self._wanted > self._limit:
            raise ThreadsHeld(
                f"all {self._limit} threads are held, and {self._wanted - self._limit} functions wait for one: "
                "some do not return at their deadline; correct them, and restart the runner"
            )

    def _work(self) -> None:
        while True:
            function, future, loop = self._jobs.get()
            try:
                # Whoever gave up waiting for a thread wants no result any more.
                result, error = (None if future.done() else function()), None
            except BaseException as raised:  # noqa: BLE001  it is the attempt's outcome, whatever it is
                result, error = None, raised
            with self._lock:
                self._wanted -= 1
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:  # the loop has ended, and nobody waits any more
                return
            del function, future, result, error


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration | SystemExit | KeyboardInterrupt):  # a future cannot carry the first
        future.set_exception(RuntimeError(f"the function raised {type(error).__name__}"))
    else:
        future.set_exception(error)
