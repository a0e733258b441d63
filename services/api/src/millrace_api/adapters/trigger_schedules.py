"""The schedules of cron triggers, which the NATS server keeps: one message each, replaced when its trigger is saved.

The database says which triggers there are, the server which schedules. Every save changes both, the schedule first, in
the transaction that saves the trigger; a crash in between leaves a schedule that its trigger does not have. That is
seen when it is due, and at every start (`Ticks`), and set right then.
"""

from __future__ import annotations

import contextlib

import msgspec

from millrace_api.domain.trigger_calendar import Calendar
from millrace_api.domain.triggers import Trigger
from millrace_api.errors import CalendarInvalid
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.log_reader import read_last, read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher

TICK_TTL_S = 86_400
"""A tick that nobody took for this long is as good as missed."""
_REFUSED = {10189: "cron", 10223: "timezone"}
"""JetStream's codes for a schedule and for a time zone that it does not know."""


class Schedules:
    """Sets and removes schedules, and tells which there are."""

    def __init__(self, connection: Connection, publisher: Publisher) -> None:
        self._connection = connection
        self._publisher = publisher

    async def bring_in_line(self, trigger: Trigger) -> None:
        """Make the server keep the schedule of a trigger, or none if it has none or is disabled. Idempotent.

        A schedule that is right already is left alone: setting it again at the moment when it is due would skip a time.

        Raises:
            CalendarInvalid: the server does not know the time zone, or the expression.
            BusUnavailable: it did not answer.
        """
        subject = subjects.cron(trigger.workspace, trigger.id)
        stored = await read_last(self._connection, "TIMERS", subject)
        wanted = payload_of(trigger)
        if wanted is None:
            if stored is not None:
                await self.remove(subject)
        elif stored is None or stored.payload != wanted:
            await self._set(subject, wanted, trigger)

    async def remove(self, subject: str) -> None:
        """Remove a schedule.

        Raises:
            BusUnavailable: the server did not answer.
        """
        await self._connection.jetstream_api("STREAM.PURGE.TIMERS", {"filter": subject})

    async def stored(self) -> dict[str, bytes]:
        """Return every schedule by its subject.

        Raises:
            BusUnavailable: the server did not answer.
        """
        found = read_subject(self._connection, "TIMERS", subjects.cron("*", "*"))
        return {stored.subject: stored.payload async for stored in found}

    async def _set(self, subject: str, payload: bytes, trigger: Trigger) -> None:
        calendar = trigger.spec.calendar()
        headers = {
            "Nats-Schedule": calendar.pattern,
            "Nats-Schedule-Time-Zone": calendar.timezone,
            "Nats-Schedule-Target": subjects.tick(trigger.workspace, trigger.id),
            "Nats-Schedule-TTL": f"{TICK_TTL_S}s",
            "Nats-Rollup": "sub",
        }
        try:
            await self._publisher.publish(Outgoing(subject, payload, extra=headers))
        except BusRefused as error:
            if error.code not in _REFUSED:
                raise
            reason = "the NATS server, which keeps the schedules, does not know it"
            raise CalendarInvalid(_REFUSED[error.code], reason) from None


def payload_of(trigger: Trigger) -> bytes | None:
    """Return what the schedule of a trigger says, and so each of its ticks; None if it must have none."""
    if trigger.kind != "cron" or not trigger.spec.is_enabled:
        return None
    calendar: Calendar | None = None
    with contextlib.suppress(CalendarInvalid):  # a zone that this machine has forgotten
        calendar = trigger.spec.calendar()
    return None if calendar is None else msgspec.json.encode(calendar)
