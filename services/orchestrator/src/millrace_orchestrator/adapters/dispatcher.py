"""Does what the core commands: hands work to the runners, arms timers, aborts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from millrace_orchestrator.adapters.timers import ShortTimers, long_timer_ids, schedule_long
from millrace_orchestrator.domain.commands import Abort, Arm, Command, Release, Run
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.ids import attempt_key

log = logging.getLogger(__name__)


class Dispatcher:
    """Performs commands. Every one of them may be repeated without harm."""

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        timers: ShortTimers,
        release: Callable[[str], None],
        horizon_s: float,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._timers = timers
        self._release = release
        self._horizon_s = horizon_s

    async def perform(self, commands: Iterable[Command]) -> None:
        """Perform commands of any number of executions, aborts before work.

        Raises:
            BusRefused, BusUnavailable: some of the work may not be queued; perform them again.
        """
        work: list[Outgoing] = []
        for command in commands:
            match command:
                case Run():
                    work.append(_queued(command))
                case Arm():
                    self._arm(command)
                case Abort():
                    await self._abort(command)
                case Release():
                    self._timers.forget(command.execution_id)
                    self._release(command.execution_id)
        await self._publisher.publish_in_order(work)

    def _arm(self, command: Arm) -> None:
        is_guard = command.fired.kind == "execution_timeout"
        if is_guard or command.due - time.time() <= self._horizon_s:
            self._timers.arm(command.due, command.fired)
        else:
            schedule_long(self._connection, command.due, command.fired)

    async def _abort(self, abort: Abort) -> None:
        execution_id = abort.execution_id
        if abort.alone:
            await self._connection.jetstream_api("STREAM.PURGE.WORK", _filter(subjects.work_of_execution(execution_id)))
            await self._connection.jetstream_api("STREAM.PURGE.TIMERS", _filter(subjects.timer_set(execution_id, "*")))
        else:  # nobody waits for these: what is missed is done in vain, and comes to nothing
            for key in abort.attempts:
                self._purge("WORK", subjects.work("*", "*", execution_id, key))
                for timer_id in long_timer_ids(key):
                    self._purge("TIMERS", subjects.timer_set(execution_id, timer_id))
        self._connection.send(subjects.cancel_control(execution_id), encode({"attempts": abort.attempts}))

    def _purge(self, stream: str, subject: str) -> None:
        self._connection.send(f"$JS.API.STREAM.PURGE.{stream}", encode(_filter(subject)))


def _filter(subject: str) -> dict[str, str]:
    return {"filter": subject}


def _queued(command: Run) -> Outgoing:
    step = command.step
    key = attempt_key(step.step, step.item, step.attempt)
    subject = subjects.work(step.kind, command.priority, step.execution_id, key)
    return Outgoing(subject, encode(step), message_id=f"{step.execution_id}:{key}")
