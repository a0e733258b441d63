"""Cron triggers when they are due: the NATS server says so, and any one of the api processes starts the execution.

The execution is named by its trigger and its scheduled time, so a tick that comes twice, to two processes, or besides
the one that makes up for it, starts it once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from millrace_api.adapters import trigger_sql as sql
from millrace_api.adapters.trigger_firing import Firing
from millrace_api.adapters.trigger_schedules import Schedules, payload_of
from millrace_api.adapters.trigger_store import TriggerStore
from millrace_api.domain.rendering import timestamp
from millrace_api.domain.trigger_calendar import due, overdue
from millrace_api.domain.trigger_rules import Occurrence
from millrace_api.domain.triggers import Trigger
from millrace_api.errors import EventUnusable, Refused
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.dead import bury
from millrace_shared.bus.publisher import Publisher
from millrace_shared.bus.pull import Delivery, PullLoop
from millrace_shared.bus.streams import NANOSECONDS, ensure_consumer
from millrace_shared.errors import MillraceError
from millrace_shared.postgres import Pool

log = logging.getLogger(__name__)

CONSUMER = "api-ticks"
SERVICE = "api"
AT_ONCE_MAX = 64
ACK_WAIT_S = 15
RETRY_S = 2.0


class Ticks:
    """Takes ticks, and brings schedules in line with triggers at the start and after the bus was away."""

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        pool: Pool,
        store: TriggerStore,
        schedules: Schedules,
        firing: Firing,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._pool = pool
        self._store = store
        self._schedules = schedules
        self._firing = firing
        self._now = now
        self._tasks: set[asyncio.Task[None]] = set()
        self._catching_up: asyncio.Task[None] | None = None
        self._loop = PullLoop(connection, "TIMERS", CONSUMER, self._deliver, capacity=AT_ONCE_MAX)

    async def start(self) -> None:
        """Take ticks from now on, and look after what was missed meanwhile."""
        await ensure_consumer(
            self._connection,
            "TIMERS",
            {
                "durable_name": CONSUMER,
                "ack_policy": "explicit",
                "filter_subject": subjects.tick("*", "*"),
                "ack_wait": ACK_WAIT_S * NANOSECONDS,
                "max_deliver": -1,
            },
        )
        await self._loop.start()
        self._connection.on_reconnect.append(self.catch_up)
        self.catch_up()

    async def stop(self) -> None:
        """Take no more, and return once those that were taken are settled."""
        self._connection.on_reconnect.remove(self.catch_up)
        await self._loop.stop()
        if self._catching_up is not None:
            self._catching_up.cancel()
            self._tasks.add(self._catching_up)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def catch_up(self) -> None:
        """Bring every schedule in line, and start what was missed and must be made up for."""
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._catch_up_until_done(), name="catch up with schedules")

    def _deliver(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._handle(delivery), name="tick")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, delivery: Delivery) -> None:
        try:
            await self._tick(delivery)
        except (Refused, EventUnusable) as error:
            await bury(self._publisher, delivery, f"the trigger cannot be fired: {error}", SERVICE)
        except Exception as error:
            # Whatever it is (the database or the bus, mostly), the time must not be lost: the tick comes again.
            log.warning("tick on %s, tried again: %s", delivery.subject, error or type(error).__name__)
            if not isinstance(error, MillraceError | OSError):
                log.debug("tick", exc_info=True)
            delivery.nak(RETRY_S)
        else:
            delivery.ack()
        finally:
            self._loop.release()

    async def _tick(self, delivery: Delivery) -> None:
        _, _, workspace, trigger_id = delivery.subject.split(".")
        trigger = await self._store.find(workspace, trigger_id)
        if trigger is None or payload_of(trigger) != delivery.payload:
            # The schedule is left from something, or its trigger is being saved at this very moment.
            trigger = await self._bring_in_line(workspace, trigger_id)
            if trigger is None or payload_of(trigger) != delivery.payload:
                return
        spec = trigger.spec
        scheduled = due(spec.calendar(), spec.misfire or "skip", delivery.stored_at, self._now())
        if scheduled is None:
            self._firing.missed(trigger)
        else:
            await self._start(trigger, scheduled)

    async def _start(self, trigger: Trigger, scheduled: float) -> None:
        at = timestamp(datetime.fromtimestamp(scheduled, UTC))
        facts: dict[str, Any] = {"scheduled_at": at, "timezone": trigger.spec.timezone or "UTC"}
        await self._firing.fire(trigger, Occurrence(None, facts, f"at/{at}"), scheduled_at=scheduled)

    async def _bring_in_line(self, workspace: str, trigger_id: str) -> Trigger | None:
        """Set one schedule right; return its trigger, if there is one."""
        async with self._pool.acquire() as database, database.transaction():
            await database.execute(sql.HOLD_STILL)
            trigger = await self._store.find_in(database, workspace, trigger_id)
            if trigger is None:
                await self._schedules.remove(subjects.cron(workspace, trigger_id))
            else:
                await self._schedules.bring_in_line(trigger)
        return trigger

    async def _catch_up_until_done(self) -> None:
        while True:
            try:
                await self._catch_up()
            except Exception as error:  # noqa: BLE001  the database or the bus is away: nothing else is waiting for this
                log.warning("schedules are not looked after yet: %s", error or type(error).__name__)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _catch_up(self) -> None:
        async with self._pool.acquire() as database, database.transaction():
            await database.execute(sql.HOLD_STILL)
            triggers = await self._store.scheduled(database)
            stored = await self._schedules.stored()
            for trigger in triggers:
                if stored.pop(subjects.cron(trigger.workspace, trigger.id), None) != payload_of(trigger):
                    await self._schedules.bring_in_line(trigger)
            for subject in stored:
                await self._schedules.remove(subject)
        for trigger in triggers:
            await self._make_up(trigger)

    async def _make_up(self, trigger: Trigger) -> None:
        if payload_of(trigger) is None:  # a time zone that this machine has forgotten since
            log.warning("trigger %s is not fired: its schedule cannot be read any more, save it again", trigger.id)
            return
        spec, last = trigger.spec, trigger.tally.last_scheduled_at
        since = max(trigger.scheduled_from, last or trigger.scheduled_from).timestamp()
        scheduled = overdue(spec.calendar(), spec.misfire or "skip", since, self._now())
        if scheduled is None:
            return
        try:
            await self._start(trigger, scheduled)
        except (Refused, EventUnusable) as error:
            log.warning("trigger %s cannot make up for a missed time: %s", trigger.id, error)
