"""Putting executions to sleep, and waking them: the order of effects that `domain/dormancy.py` relies on.

    asleep:  schedules stored ─► lease acknowledged ─► forgotten
    awake:   transition committed ─► lease put anew ─► schedules removed ─► commands performed ─► message acknowledged

A crash between any two of these leaves the lease, or an unacknowledged message that has the rest done again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters.timers import scheduled
from millrace_orchestrator.domain.commands import Arm, Command, outstanding
from millrace_orchestrator.domain.dormancy import Rhythm, falls_asleep, may_be_asleep
from millrace_orchestrator.leases import Leases
from millrace_orchestrator.turn import Turn
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.publisher import Publisher
from millrace_shared.bus.streams import INBOX_BACKOFF_S
from millrace_shared.errors import MillraceError
from millrace_shared.messages import StartRequest


class Dormitory:
    """Knows who sleeps, and sees to it that nothing that they wait for is lost.

    Args:
        connection: the bus.
        publisher: publishes on it.
        leases: those that this process holds.
        rhythm: when executions may fall asleep.
    """

    def __init__(self, connection: Connection, publisher: Publisher, leases: Leases, rhythm: Rhythm) -> None:
        self._connection = connection
        self._publisher = publisher
        self._leases = leases
        self._rhythm = rhythm

    def is_for(self, turn: Turn) -> bool:
        """Whether a turn is nothing but another look at an execution that may be forgotten.

        One that a scan has found may have a lease that was not delivered to us. Then nobody stores its timers before
        that comes again, so what is due until then must be remembered.
        """
        after = turn.after
        if turn.failed is not None or turn.events or after is None or after.state is None:
            return False
        if (
            turn.from_memory
            or not turn.is_again
            or not all(isinstance(message, StartRequest) for _, message in turn.arrivals)
        ):
            return False
        rhythm = self._rhythm
        if all(arrival.delivery is None for arrival, _ in turn.arrivals):
            rhythm = replace(rhythm, horizon_s=max(rhythm.horizon_s, 2 * INBOX_BACKOFF_S[-1]))
        return falls_asleep(after.plan, after.state, after.changed_at, time.time(), rhythm)

    async def put_to_sleep(self, turns: Sequence[Turn]) -> None:
        """Store the timers of executions that fall asleep, and give their leases back.

        What else is outstanding of them has been performed. A scan may have found a lease that was given back long
        ago: then there is nothing to do.
        """
        leased = [turn for turn in turns if any(arrival.delivery is not None for arrival, _ in turn.arrivals)]
        timers = [(turn, command) for turn in leased for command in turn.commands if isinstance(command, Arm)]
        results = await self._publisher.publish_all([scheduled(arm.due, arm.fired) for _, arm in timers])
        for (turn, _), result in zip(timers, results, strict=True):
            if isinstance(result, MillraceError):
                turn.failed = result
        for turn in leased:
            if turn.failed is not None:
                continue
            metrics.fell_asleep.inc()
            self._leases.release(turn.execution_id)
            for arrival, _ in turn.arrivals:
                if arrival.delivery is not None:
                    arrival.delivery.ack()

    async def wake(self, turns: Sequence[Turn]) -> None:
        """Put new leases on executions that were moved on and may have none, before anything is performed for them."""
        now = time.time()
        woken = [turn for turn in turns if turn.failed is None and self._may_lack_lease(turn, now)]
        if not woken:
            return
        try:
            # Before the leases are put: what somebody schedules under these, while we are stopped, must stay.
            before = int((await self._connection.jetstream_api("STREAM.INFO.TIMERS"))["state"]["last_seq"])
        except MillraceError as error:
            for turn in woken:
                turn.failed = error
            return
        requests = [
            turn.after.state.request
            for turn in woken
            if turn.after is not None and turn.after.state is not None and not turn.after.state.finished
        ]
        failures = await self._leases.put(requests)
        failed = {one.execution_id: why for one, why in zip(requests, failures, strict=True) if why is not None}
        for turn in woken:
            turn.failed = failed.get(turn.execution_id)
        sleepers = [turn for turn in woken if turn.failed is None and self._may_have_slept(turn, now)]
        await asyncio.gather(*(self._unschedule(turn, before) for turn in sleepers))

    async def _unschedule(self, turn: Turn, last: int) -> None:
        """Remove the schedules of an execution that slept, up to the stream sequence `last`.

        Awake, it has its deadline watched in memory.
        """
        try:
            subject = subjects.timer_set(turn.execution_id, "*")
            await self._connection.jetstream_api("STREAM.PURGE.TIMERS", {"filter": subject, "seq": last + 1})
        except MillraceError as error:
            turn.failed = error
            return
        state = turn.after.state if turn.after is not None else None
        if state is None or state.finished:
            return
        asked = set(_timers(turn.commands))
        assert turn.after is not None
        turn.commands += [arm for arm in _timers(outstanding(turn.after.plan, state)) if arm not in asked]

    def _may_lack_lease(self, turn: Turn, now: float) -> bool:
        """Whether a turn that leads to something is of an execution that may have no lease.

        It slept; or this is another try at a message, and the one before may have got no further than the commit.
        Another look at a start that leads to nothing needs none: whoever puts it to sleep then is right.
        """
        slept = self._may_have_slept(turn, now)
        if not slept and not turn.is_again:
            return False
        messages = [arrival for arrival, message in turn.arrivals if not isinstance(message, StartRequest)]
        if turn.after is None or not (turn.events or (messages and turn.commands)):
            return False
        return slept or any(arrival.again for arrival in messages)

    def _may_have_slept(self, turn: Turn, now: float) -> bool:
        before = turn.execution
        if before is None or before.state is None:
            return False
        return may_be_asleep(before.plan, before.state, before.changed_at, now, self._rhythm)


def _timers(commands: Iterable[Command]) -> list[Arm]:
    return [command for command in commands if isinstance(command, Arm)]
