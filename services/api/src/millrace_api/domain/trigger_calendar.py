"""When cron triggers fire: the calendar of one, and what becomes of a time that was missed.

The NATS server keeps the schedules and says when one is due (ADR 0009). What it does not say is which time it was due
for, or that it was away at one. That is read here, from the same expression, in the same six fields that the server
gets: where the two could disagree about an expression, it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from math import floor
from typing import Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from millrace_api.errors import CalendarInvalid
from millrace_shared.expressions.suggest import did_you_mean

Misfire = Literal["skip", "run_once"]
"""What becomes of times that nobody was there for: nothing, or one execution for the latest of them."""

HORIZON_S = 5 * 366 * 86_400
"""A schedule without a time in so many seconds never fires: the NATS server looks no further either."""
LATE_S = 60.0
"""A time that is noticed later than this was missed. Less is the usual delay of busy machines and restarts."""
CRON_CHARS_MAX = 200
_CHANGES_APART_S = 7 * 86_400
"""Clocks are not changed, and changed back, within a week."""
_FIELDS = ("second", "minute", "hour", "day of the month", "month", "day of the week")
_FIVE = 5
_DAY, _WEEKDAY = 3, 5
_WHOLE = (60, 60, 24, 31, 12, 7)
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True)
class Calendar:
    """The times of a cron expression in a time zone. Build it with `read_calendar`.

    Attributes:
        pattern: six fields, from the second to the day of the week, as the NATS server takes them.
        timezone: an IANA name.
    """

    pattern: str
    timezone: str

    def next(self, after: float) -> float | None:
        """Return the first time later than `after` (Unix seconds), or None if there is none in five years."""
        return self._first(floor(after) + 1, 1)

    def last(self, until: float) -> float | None:
        """Return the last time at or before `until` (Unix seconds), or None if there was none in five years."""
        return self._first(floor(until), -1)

    def _first(self, begin: int, step: Literal[1, -1]) -> float | None:
        """Return the first time from `begin` on, onwards or back.

        From one change of the zone's clocks to the next their times are read without a zone: what goes by whole hours
        across a change is wrong where clocks are changed by half an hour.
        """
        zone, here = ZoneInfo(self.timezone), begin
        while True:
            offset_s = _offset_s(zone, here)
            wall = datetime.fromtimestamp(here - step + offset_s, UTC).replace(tzinfo=None)
            found = next(CronSim(self.pattern, wall, reverse=step < 0), None)
            if found is None:
                return None
            moment = int(found.replace(tzinfo=UTC).timestamp()) - offset_s
            if abs(moment - begin) > HORIZON_S:
                return None
            changed = _change_of_clocks(zone, here, moment)
            if changed is None:
                return float(moment)
            here = changed


def _offset_s(zone: ZoneInfo, moment: int) -> int:
    """Return how far the clocks of a zone are ahead of UTC, in seconds."""
    offset = datetime.fromtimestamp(moment, zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def _change_of_clocks(zone: ZoneInfo, begin: int, end: int) -> int | None:
    """Return the moment nearest to `begin`, up to `end`, at which the offset is not that at `begin`, if any."""
    known_s, step = _offset_s(zone, begin), _CHANGES_APART_S if end > begin else -_CHANGES_APART_S
    same = begin
    while same != end:
        other = min(same + step, end) if step > 0 else max(same + step, end)
        if _offset_s(zone, other) != known_s:
            while abs(other - same) > 1:
                middle = (same + other) // 2
                same, other = (middle, other) if _offset_s(zone, middle) == known_s else (same, middle)
            return other
        same = other
    return None


@lru_cache(maxsize=1024)
def read_calendar(cron: str, timezone: str) -> Calendar:
    """Read a cron expression: five fields, six with seconds in front, or a nickname such as `@daily`.

    Raises:
        CalendarInvalid: it is no such expression, or not one that every cron reads alike; or the time zone is unknown.
    """
    if timezone not in _zones():
        hint = did_you_mean(timezone, _zones()) or "write a name such as Europe/Berlin or UTC"
        raise CalendarInvalid("timezone", f'there is no time zone "{timezone[:64]}"; {hint}')
    if len(cron) > CRON_CHARS_MAX:
        raise CalendarInvalid("cron", f"an expression has at most {CRON_CHARS_MAX} characters")
    fields = _NICKNAMES.get(cron.strip().lower(), cron).upper().split()
    if len(fields) == _FIVE:
        fields.insert(0, "0")
    if len(fields) != len(_FIELDS):
        fields_wanted = "minute, hour, day of the month, month, day of the week"
        raise CalendarInvalid("cron", f'five fields are needed ({fields_wanted}), like "0 9 * * 1-5"')
    return Calendar(" ".join(_canonical(fields)), timezone)


def check_fires(calendar: Calendar, now: float) -> None:
    """Check that a calendar has a time to come.

    Raises:
        CalendarInvalid: it has none in the next five years.
    """
    if calendar.next(now) is None:
        raise CalendarInvalid("cron", "it never fires: no day in the next five years is like that")


def due(calendar: Calendar, misfire: Misfire, noticed_for: float, now: float) -> float | None:
    """Tell for which time to start an execution when the server said that a schedule is due.

    Args:
        calendar: the schedule.
        misfire: what to do about a time that was missed.
        noticed_for: when the server said so, in Unix seconds.
        now: Unix seconds.

    Returns:
        The scheduled time, or None: it was missed, and shall be left out.
    """
    scheduled = calendar.last(noticed_for)
    if scheduled is None:
        return None
    if now - scheduled <= LATE_S:
        return scheduled
    return calendar.last(now) if misfire == "run_once" else None


def overdue(calendar: Calendar, misfire: Misfire, since: float, now: float) -> float | None:
    """Tell which time must be made up for by someone who has just come, and may have missed what the server said.

    Args:
        calendar: the schedule.
        misfire: what to do about a time that was missed.
        since: the schedule applies from here on (Unix seconds), or its last execution was scheduled then.
        now: Unix seconds.

    Returns:
        The latest scheduled time later than `since`, or None.
    """
    if misfire == "skip":
        return None
    latest = calendar.last(now)
    return latest if latest is not None and latest > since else None


def _canonical(fields: list[str]) -> list[str]:
    """Return the fields as plain lists of numbers, in which no two programs can read different things.

    Raises:
        CalendarInvalid: they are no cron expression, or an ambiguous one.
    """
    try:
        parsed = CronSim(" ".join(fields), datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise CalendarInvalid("cron", _explained(fields, str(error))) from None
    written = []
    groups: tuple[set[Any], ...] = (
        *(parsed.seconds, parsed.minutes, parsed.hours),
        *(parsed.days, parsed.months, parsed.weekdays),
    )
    for name, field, values, whole in zip(_FIELDS, fields, groups, _WHOLE, strict=True):
        numbers = {value for value in values if isinstance(value, int) and value >= 0}
        if len(numbers) != len(values):
            raise CalendarInvalid("cron", f'"{field}" for the {name}: L, W and # are not known here')
        if name == _FIELDS[_WEEKDAY]:
            numbers = {value % whole for value in numbers}  # Sunday is 0 and 7
        every = field.startswith("*") and len(numbers) == whole
        written.append("*" if every else ",".join(map(str, sorted(numbers))))
    if parsed.day_and and written[_DAY] != "*" != written[_WEEKDAY]:
        reason = "a step over all days, together with other days: some programs take both, others either"
        raise CalendarInvalid("cron", f"{reason}; write the days out, like 1-31/2")
    return written


def _explained(fields: list[str], message: str) -> str:
    name = message.removeprefix("Bad ").replace("day-of-", "day of the ")
    name = {"day of the dow": "day of the week"}.get(name, name)
    if name not in _FIELDS:
        return "this is no cron expression"
    field = fields[_FIELDS.index(name)]
    if name == _FIELDS[_DAY]:
        try:
            CronSim(f"0 0 0 {field} * *", datetime(2000, 1, 1, tzinfo=UTC))
        except CronSimError:
            pass
        else:
            return f"it never fires: no month of it has a day {field}"
    return f'"{field[:40]}" is no {name}'


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) - {"localtime", "posixrules", "Factory"}
