"""The attempts of this process: which run, since when, and who wants them stopped.

One timer serves all of them: it tells the server that work goes on, announces attempts that take a while, and stops
those whose time is up. It ticks only while something runs. When it finds that it has not ticked for so long that the
server may have given attempts to another runner (this process was stopped, or starved of its processor), it says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from millrace_agent_runner.adapters.intake import Taken
from millrace_agent_runner.adapters.pulse import clock
from millrace_agent_runner.domain.attempt import Attempt
from millrace_shared.bus.streams import WORK_ACK_WAIT_S
from millrace_shared.messages import RunStep

log = logging.getLogger(__name__)

TICK_S = 0.05
ANNOUNCED_AFTER_S = 0.1
"""An attempt that runs this long is announced; a shorter one is told by its result alone."""
HEARTBEAT_S = 1.0
"""An attempt that runs for longer than this tells the server so, this often; a shorter one costs nothing. Three may be
lost, or late, before the server gives the attempt to another runner."""
CANCELS_REMEMBERED_S = 10.0
CANCELS_REMEMBERED_MAX = 10_000
"""Queued work of what was cancelled is purged, and may be handed out before that. It is not performed either."""
STOP_AGAIN_S = 1.0
"""An attempt that goes on although it was stopped is stopped again this often."""

StopReason = Literal["timeout", "cancelled", "drain", "lost"]
"""`lost`: another runner performs it now. `drain`: this process ends."""


@dataclass(slots=True)
class Job:
    """A work message in this process, from its delivery until its result is stored.

    Attributes:
        taken: the newest delivery of it; that one is acknowledged.
        step: the decoded message; None until a slot has begun with it.
        attempt: what is being performed; None until then.
        started_at: Unix seconds.
        task: the slot that performs it; None before and after.
        stopped: why it was told to stop.
        stale_since: when this process was stopped, if the message may have been delivered meanwhile (Unix seconds).
    """

    taken: Taken
    step: RunStep | None = None
    attempt: Attempt | None = None
    started_at: float = 0.0
    task: asyncio.Task[None] | None = None
    stopped: StopReason | None = None
    stopped_at: float = 0.0
    announced: bool = False
    stale_since: float | None = None
    beat_at: float = field(default_factory=clock)

    @property
    def has_ended(self) -> bool:
        """Whether it was performed, and its result is on its way."""
        return self.attempt is not None and self.task is None

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to stop."""
        return self.stopped is not None

    def stop(self, reason: StopReason) -> None:
        """Cancel what runs, and keep from running what has not begun; the first reason stands."""
        if self.has_ended:
            return
        self.stopped = self.stopped or reason
        self.stopped_at = clock()
        if self.task is not None:
            self.task.cancel()


class Jobs:
    """All jobs of the process, by the subject of their work message, which names the attempt.

    Args:
        announce: called once for each job that runs for longer than `ANNOUNCED_AFTER_S`.
        doubt: called with each running job for which the server has heard nothing for so long that another may have it.
    """

    def __init__(self, announce: Callable[[Job], None], doubt: Callable[[Job], None]) -> None:
        self._announce = announce
        self._doubt = doubt
        self._jobs: dict[str, Job] = {}
        self._cancels: dict[tuple[str, str | None], float] = {}
        """Executions and attempts (None: all) that were cancelled lately, and when, the oldest first."""
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the timer."""
        self._task = asyncio.create_task(self._tick_on(), name="jobs")

    async def stop(self) -> None:
        """Stop the timer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(tuple(self._jobs.values()))

    def get(self, subject: str) -> Job | None:
        """Return the job of a work message that is here already."""
        return self._jobs.get(subject)

    def add(self, job: Job) -> None:
        """Watch over a job; stop it if it was cancelled on its way here."""
        self._jobs[job.taken.delivery.subject] = job
        if self._cancels and self._was_cancelled(job.taken.delivery.subject):
            job.stop("cancelled")
        if not self._awake.is_set():
            self._awake.set()

    def remove(self, job: Job) -> None:
        """The job's result is stored, or it was given back."""
        self._jobs.pop(job.taken.delivery.subject, None)

    def stop_execution(self, execution_id: str, keys: frozenset[str] | None) -> int:
        """Stop the attempts of an execution: all, or those with the given keys. Returns how many."""
        self._remember(execution_id, keys)
        stopped = 0
        for subject, job in tuple(self._jobs.items()):
            tokens = subject.split(".", 5)
            if tokens[4] == execution_id and (keys is None or tokens[5] in keys) and not job.has_ended:
                job.stop("cancelled")
                stopped += 1
        return stopped

    def stop_taken(self, execution_id: str, key: str, delivery: int) -> bool:
        """Stop an attempt whose message was delivered to another runner later. Returns whether there was one."""
        for subject, job in tuple(self._jobs.items()):
            tokens = subject.split(".", 5)
            if tokens[4] == execution_id and tokens[5] == key and job.taken.delivery.delivered_count < delivery:
                job.stop("lost")
                return not job.has_ended
        return False

    def _remember(self, execution_id: str, keys: frozenset[str] | None) -> None:
        now = clock()
        for key in (None,) if keys is None else keys:
            self._cancels.pop((execution_id, key), None)
            self._cancels[execution_id, key] = now
        while self._cancels:
            oldest = next(iter(self._cancels))
            if len(self._cancels) <= CANCELS_REMEMBERED_MAX and now - self._cancels[oldest] <= CANCELS_REMEMBERED_S:
                break
            del self._cancels[oldest]

    def _was_cancelled(self, subject: str) -> bool:
        tokens = subject.split(".", 5)
        return (tokens[4], tokens[5]) in self._cancels or (tokens[4], None) in self._cancels

    async def _tick_on(self) -> None:
        while True:
            await self._awake.wait()
            await asyncio.sleep(TICK_S)
            try:
                self._tick()
            except Exception:  # one job's defect must not stop the heartbeat of the others
                log.exception("the timer of running attempts failed")
            if not self._jobs:
                self._awake.clear()

    def _tick(self) -> None:
        now, wall = clock(), time.time()
        for job in tuple(self._jobs.values()):
            silent_s = now - job.beat_at
            if silent_s >= HEARTBEAT_S:
                job.beat_at = now
                if silent_s >= WORK_ACK_WAIT_S and job.task is not None:
                    self._doubt(job)  # if it is another's, nobody must speak for that one, who may be gone by now
                else:
                    job.taken.delivery.in_progress()
            if job.task is None or job.attempt is None:
                continue
            if not job.announced and wall - job.started_at >= ANNOUNCED_AFTER_S:
                job.announced = True
                self._announce(job)
            if job.stopped is None:
                if wall >= job.attempt.ends_at:
                    job.stop("timeout")
            elif now - job.stopped_at >= STOP_AGAIN_S:
                job.stop(job.stopped)
