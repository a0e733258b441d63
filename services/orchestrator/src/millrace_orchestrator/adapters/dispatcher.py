"""Does what the core commands: hands work to the runners, begins children, arms timers, passes gates, aborts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from millrace_orchestrator.adapters.gatekeeper import Gatekeeper
from millrace_orchestrator.adapters.timers import ShortTimers, long_timer_ids, schedule_long
from millrace_orchestrator.domain.commands import Abort, Arm, Begin, Command, Release, Run, Tell
from millrace_orchestrator.domain.gates import Enter, Leave
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import WrongLastSequence
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.errors import MillraceError
from millrace_shared.ids import attempt_key
from millrace_shared.lanes import Lane, lane_of

log = logging.getLogger(__name__)


class Dispatcher:
    """Performs commands. Every one of them may be repeated without harm."""

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        timers: ShortTimers,
        gatekeeper: Gatekeeper,
        release: Callable[[str], None],
        horizon_s: float,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._timers = timers
        self._gatekeeper = gatekeeper
        self._release = release
        self._horizon_s = horizon_s

    async def perform(self, commands: Iterable[Command]) -> None:
        """Perform commands of any number of executions.

        In this order: aborts before new work; the start of a child before what is told to it; and an execution is
        released last, when everybody who waits for its end has durably been told.

        Raises:
            BusRefused, BusUnavailable: some of it may not be done; perform them again.
        """
        asked = _Sorted()
        for command in commands:
            match command:
                case Run():
                    asked.work.append(command)
                case Begin():
                    asked.begun.append(_accepted(command))
                case Tell():
                    told = command.message
                    asked.told.append(Outgoing(subjects.inbox(told.execution_id), encode(told)))
                case Enter():
                    asked.entering.append(command)
                case Leave():
                    asked.leaving.append(command)
                case Arm():
                    self._arm(command)
                case Abort():
                    await self._abort(command)
                case Release():
                    asked.released.append(command.execution_id)
        await self._publish(asked.begun)
        await self._publish(asked.told)
        if asked.leaving:
            await self._gatekeeper.leave(asked.leaving)
        if asked.entering:
            await self._gatekeeper.enter(asked.entering)
        await self._publisher.publish_in_order([_queued(run) for run in asked.work])
        self._announce_crowded(asked.work)
        for execution_id in asked.released:
            self._timers.forget(execution_id)
            self._release(execution_id)

    def _announce_crowded(self, work: list[Run]) -> None:
        """No runner keeps a request open for a crowded lane, so they are told what to look into."""
        for bell in {subjects.crowded_control(run.step.kind, _lane(run)) for run in work if run.crowded}:
            self._connection.send(bell, b"")

    async def _publish(self, messages: list[Outgoing]) -> None:
        """Publish each message durably. One whose place is taken has been published before."""
        for result in await self._publisher.publish_all(messages):
            if isinstance(result, MillraceError) and not isinstance(result, WrongLastSequence):
                raise result

    def _arm(self, command: Arm) -> None:
        is_guard = command.fired.kind == "execution_timeout"
        if is_guard or command.due - time.time() <= self._horizon_s:
            self._timers.arm(command.due, command.fired)
        else:
            schedule_long(self._connection, command.due, command.fired)

    async def _abort(self, abort: Abort) -> None:
        execution_id = abort.execution_id
        if abort.ended:
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


@dataclass(slots=True)
class _Sorted:
    """Commands by what is done for them."""

    work: list[Run] = field(default_factory=list)
    begun: list[Outgoing] = field(default_factory=list)
    told: list[Outgoing] = field(default_factory=list)
    entering: list[Enter] = field(default_factory=list)
    leaving: list[Leave] = field(default_factory=list)
    released: list[str] = field(default_factory=list)


def _accepted(command: Begin) -> Outgoing:
    """A child's start. Its subject takes one message: beginning it twice begins it once."""
    request = command.request
    return Outgoing(subjects.start(request.execution_id), encode(request), expected_last_sequence=0)


def _filter(subject: str) -> dict[str, str]:
    return {"filter": subject}


def _lane(command: Run) -> Lane:
    return lane_of(command.priority, command.crowded)


def _queued(command: Run) -> Outgoing:
    step = command.step
    key = attempt_key(step.step, step.item, step.attempt)
    subject = subjects.work(step.kind, _lane(command), step.execution_id, key)
    return Outgoing(subject, encode(step), message_id=f"{step.execution_id}:{key}")
