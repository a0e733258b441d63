"""Keeps one process running: start, wait for readiness, watch, restart after a backoff."""

import asyncio
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from millrace.embedded.errors import EmbeddedError, ProcessStartError
from millrace.embedded.events import EventKind, Listener, ProcessEvent
from millrace.embedded.logs import rotate_if_large, tail
from millrace.embedded.process import ProcessSpec, describe_exit, kill_group, send, spawn, terminate

_PROBE_INTERVAL_S_MIN, _PROBE_INTERVAL_S_MAX = 0.01, 0.25
_PROBE_TIMEOUT_S = 5.0
_ENDING_SIGNALS = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGSEGV}
)


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long a restart waits.

    Attributes:
        initial_s: before the first restart.
        factor: by how much each further failure lengthens it.
        max_s: the longest wait.
        stable_after_s: a process that was ready for this long starts again from `initial_s`.
    """

    initial_s: float = 0.1
    factor: float = 2.0
    max_s: float = 15.0
    stable_after_s: float = 30.0

    def delay_s(self, failures: int) -> float:
        """The wait after this many failures in a row (at least one)."""
        exponent = min(failures - 1, 64)  # beyond that a float overflows; max_s has long been reached
        return float(min(self.max_s, self.initial_s * self.factor**exponent))


class Keeper:
    """One process and everything that happens to it. Created and driven by the supervisor."""

    def __init__(self, spec: ProcessSpec, log_path: Path, listeners: Sequence[Listener], backoff: Backoff) -> None:
        self.spec = spec
        self.restarts = 0
        self._log_path = log_path
        self._listeners = listeners
        self._backoff = backoff
        self._process: Process | None = None
        self._ready = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The pid, or None while the process is down."""
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process is not None and alive else None

    @property
    def is_ready(self) -> bool:
        """Whether the last probe of the last start passed and the process lives."""
        return self._ready.is_set()

    async def start(self) -> None:
        """Start the process, wait until it is ready, and watch over it from then on."""
        await self._launch()
        self._watch = asyncio.create_task(self._keep_running(), name=f"keep {self.spec.name}")

    async def stop(self, hurry: asyncio.Event) -> None:
        """Stop watching, then end the process."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        self._ready.clear()
        if self._process is not None:
            await terminate(self._process, self.spec, hurry)
            self._say(EventKind.STOPPED, pid=self._process.pid, detail=self._exit())
            self._process = None

    async def restart(self, hurry: asyncio.Event) -> None:
        """End the process and start it again without a backoff."""
        await self.stop(hurry)
        await self.start()
        self.restarts += 1

    async def wait_ready(self) -> None:
        """Return when the process is ready."""
        await self._ready.wait()

    def kill(self, number: signal.Signals) -> int:
        """Send a signal; one that ends the process makes it not ready from this moment."""
        if self._process is None or self._process.returncode is not None:
            raise ProcessLookupError(f"{self.spec.name} is not running")
        if number in _ENDING_SIGNALS:
            self._ready.clear()
        send(self._process, number)
        return self._process.pid

    async def _keep_running(self) -> None:
        failures = 0
        while True:
            assert self._process is not None
            ready_since = time.monotonic()
            await self._process.wait()
            self._ready.clear()
            kill_group(self._process)
            self._say(EventKind.DIED, pid=self._process.pid, detail=self._exit())
            if time.monotonic() - ready_since >= self._backoff.stable_after_s:
                failures = 0
            failures = await self._bring_back(failures + 1)
            self.restarts += 1

    async def _bring_back(self, failures: int) -> int:
        """Start the process again, as often as it takes. Returns the failures in a row so far."""
        while True:
            delay_s = self._backoff.delay_s(failures)
            self._say(EventKind.RESTARTING, detail=f"in {delay_s:g} s (failure {failures} in a row)")
            await asyncio.sleep(delay_s)
            try:
                await self._launch()
            except (EmbeddedError, OSError) as error:
                self._say(EventKind.FAILED, detail=str(error))
                failures += 1
            else:
                return failures

    async def _launch(self) -> None:
        """Spawn the process and return when it is ready; if it does not get there, it is gone again."""
        rotate_if_large(self._log_path)
        await self.spec.prepare()
        began = time.monotonic()
        self._process = process = await spawn(self.spec, self._log_path)
        self._say(EventKind.STARTED, pid=process.pid)
        try:
            await self._reach_readiness(process)
        except ProcessStartError:
            kill_group(process)
            await process.wait()
            raise
        self._ready.set()
        self._say(EventKind.READY, pid=process.pid, detail=f"after {time.monotonic() - began:.2f} s")

    async def _reach_readiness(self, process: Process) -> None:
        exited = asyncio.ensure_future(process.wait())
        probed = asyncio.ensure_future(self._probe())
        try:
            done, _ = await asyncio.wait(
                {exited, probed}, timeout=self.spec.ready_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            exited.cancel()
            probed.cancel()
            await asyncio.gather(exited, probed, return_exceptions=True)
        if exited in done:
            raise self._start_error(describe_exit(process.returncode))
        if probed not in done:
            raise self._start_error(f"was not ready within {self.spec.ready_timeout_s:g} s")
        probed.result()

    async def _probe(self) -> None:
        interval_s = _PROBE_INTERVAL_S_MIN
        while True:
            # Not wait_for: on Python 3.11 it swallows a cancellation that meets a finished probe.
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_PROBE_TIMEOUT_S):
                    if await self.spec.ready():
                        return
            await asyncio.sleep(interval_s)
            interval_s = min(interval_s * 1.5, _PROBE_INTERVAL_S_MAX)

    def _start_error(self, what: str) -> ProcessStartError:
        last = tail(self._log_path)
        shown = f" Its last words:\n{last}" if last else ""
        return ProcessStartError(f"{self.spec.name} {what}; its log is {self._log_path}.{shown}")

    def _exit(self) -> str:
        return describe_exit(self._process.returncode) if self._process is not None else ""

    def _say(self, kind: EventKind, *, pid: int | None = None, detail: str = "") -> None:
        event = ProcessEvent(name=self.spec.name, kind=kind, pid=pid, detail=detail)
        for listener in self._listeners:
            listener(event)
