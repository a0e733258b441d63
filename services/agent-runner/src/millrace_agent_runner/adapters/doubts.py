"""Doubts: has another runner an attempt that is being performed here? Then it is stopped here, without a result.

There is reason to ask when the server may have heard nothing of the attempt for as long as it is patient, and when the
connection is a new one: what was told meanwhile of takeovers and cancels is not stored, and did not come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from millrace_agent_runner.adapters.jobs import Job
from millrace_agent_runner.adapters.repeats import Repeats
from millrace_shared.errors import MillraceError

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0


class Doubts:
    """Asks about attempts that run, until there is an answer or they have ended; about each once at a time.

    Args:
        repeats: knows where to look.
        runner: the name of this process.
    """

    def __init__(self, repeats: Repeats, runner: str) -> None:
        self._repeats = repeats
        self._runner = runner
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def ask(self, jobs: Iterable[Job]) -> None:
        """Find out about jobs; about those that do not run there is nothing to ask."""
        for job in jobs:
            subject = job.taken.delivery.subject
            if job.task is not None and subject not in self._tasks:
                task = self._tasks[subject] = asyncio.create_task(self._resolve(job), name="doubt")
                task.add_done_callback(lambda _, subject=subject: self._tasks.pop(subject))  # type: ignore[misc]

    def stop(self) -> None:
        """Ask nothing more."""
        for task in self._tasks.values():
            task.cancel()

    async def _resolve(self, job: Job) -> None:
        while job.step is not None and job.task is not None:
            try:
                elsewhere = await self._repeats.is_elsewhere(job.step, self._runner, job.started_at)
            except MillraceError as error:
                log.warning("%s may have been taken over: %s", job.taken.delivery.subject, error)
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            if elsewhere:
                log.warning("gave %s up: it is over, or another runner has it", job.taken.delivery.subject)
                job.stop("lost")
            else:
                job.taken.delivery.in_progress()
            return
