"""The calendar of cron triggers: what it reads, what it refuses, and that it looks forward and back alike."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_api.domain.trigger_calendar import LATE_S, Calendar, check_fires, due, overdue, read_calendar
from millrace_api.errors import CalendarInvalid

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Santiago")
NOW = datetime(2026, 1, 15, 10, 0, tzinfo=UTC).timestamp()


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("cron", "pattern"),
    [
        ("0 9 * * 1-5", "0 0 9 * * 1,2,3,4,5"),
        ("*/20 * * * *", "0 0,20,40 * * * *"),
        ("30 0 9 1 jan sun", "30 0 9 1 1 0"),
        ("0 0 * * 7", "0 0 0 * * 0"),
        ("0 0 1-31/10 * MON,wed", "0 0 0 1,11,21,31 * 1,3"),
        ("0 0 1 * 0-6", "0 0 0 1 * 0,1,2,3,4,5,6"),
        ("0 0 */1 * 1", "0 0 0 * * 1"),
        ("@daily", "0 0 0 * * *"),
        (" @Hourly ", "0 0 * * * *"),
    ],
)
def test_expressions_are_written_so_that_nothing_can_read_them_differently(cron: str, pattern: str):
    assert read_calendar(cron, "UTC").pattern == pattern


@pytest.mark.parametrize(
    ("cron", "zone", "field", "words"),
    [
        ("0 0 30 2 *", "UTC", "cron", "it never fires"),
        ("0 0 31 4,6 *", "UTC", "cron", "it never fires"),
        ("0 0 32 * *", "UTC", "cron", '"32" is no day of the month'),
        ("61 * * * *", "UTC", "cron", '"61" is no minute'),
        ("0 9 * *", "UTC", "cron", "five fields are needed"),
        ("", "UTC", "cron", "five fields are needed"),
        ("0 9 * * mon-noon", "UTC", "cron", "no day of the week"),
        ("0 9 L * *", "UTC", "cron", "L, W and # are not known here"),
        ("0 9 * * 5#2", "UTC", "cron", "L, W and # are not known here"),
        ("0 9 */2 * 1", "UTC", "cron", "1-31/2"),
        ("0 9 * * *", "Europe/Berlln", "timezone", "Europe/Berlin"),
        ("0 9 * * *", "CET+1 ", "timezone", "there is no time zone"),
        ("0 9 * * *" + " " * 200, "UTC", "cron", "at most"),
    ],
)
def test_a_schedule_that_nobody_can_keep_is_refused_by_its_field(cron: str, zone: str, field: str, words: str):
    with pytest.raises(CalendarInvalid) as refused:
        check_fires(read_calendar(cron, zone), NOW)
    assert refused.value.field == field
    assert words in refused.value.reason


def test_a_leap_day_is_worth_waiting_for():
    assert read_calendar("0 0 29 2 *", "UTC").next(NOW) == at("2028-02-29T00:00:00+00:00")


def test_the_time_of_day_is_that_of_the_zone_in_summer_and_in_winter():
    berlin = read_calendar("0 9 * * *", "Europe/Berlin")
    assert berlin.next(at("2026-01-15T07:00:00+00:00")) == at("2026-01-15T08:00:00+00:00")
    assert berlin.next(at("2026-07-15T06:00:00+00:00")) == at("2026-07-15T07:00:00+00:00")
    assert berlin.last(at("2026-07-15T07:00:00+00:00")) == at("2026-07-15T07:00:00+00:00")
    assert berlin.last(at("2026-07-15T06:59:59.9+00:00")) == at("2026-07-14T07:00:00+00:00")


def test_an_hour_that_does_not_exist_is_left_out_and_one_that_comes_twice_counts_twice():
    """As the NATS server does it, which says when a schedule is due."""
    berlin = read_calendar("30 2 * * *", "Europe/Berlin")
    assert berlin.next(at("2026-03-29T00:00:00+00:00")) == at("2026-03-30T00:30:00+00:00")
    first = berlin.next(at("2026-10-24T22:00:00+00:00"))
    assert first == at("2026-10-25T00:30:00+00:00")
    assert berlin.next(first) == at("2026-10-25T01:30:00+00:00")


def test_clocks_that_are_put_back_by_half_an_hour_move_no_time():
    island = read_calendar("*/7 0 * * *", "Australia/Lord_Howe")
    between = at("2029-04-01T01:30:00+10:30")
    assert island.last(between) == at("2029-04-01T00:56:00+11:00")
    assert island.next(between) == at("2029-04-02T00:00:00+10:30")
    assert read_calendar("0 2 * * *", "Australia/Lord_Howe").next(between) == at("2029-04-01T02:00:00+10:30")


CALENDARS = st.builds(
    lambda minute, hour, day, zone: read_calendar(f"{minute} {hour} {day} * *", zone),
    st.sampled_from(["0", "*/7", "15,45", "*"]),
    st.sampled_from(["*", "2", "0", "*/5", "23"]),
    st.sampled_from(["*", "1", "31", "10-12"]),
    st.sampled_from(ZONES),
)


@settings(max_examples=150, deadline=None)
@given(CALENDARS, st.integers(int(at("2024-01-01T00:00:00+00:00")), int(at("2030-01-01T00:00:00+00:00"))))
def test_forward_and_back_meet_at_the_same_times(calendar: Calendar, moment: int):
    following = calendar.next(moment)
    assert following is not None
    assert following > moment
    assert calendar.last(following) == following
    before = calendar.last(moment)
    assert before is not None
    assert before <= moment
    assert calendar.next(before) == following


HOURLY = read_calendar("0 * * * *", "UTC")
TEN = at("2026-01-15T10:00:00+00:00")


def test_a_time_that_is_noticed_soon_is_kept():
    assert due(HOURLY, "skip", TEN + 0.3, TEN + 1) == TEN
    assert due(HOURLY, "skip", TEN + 0.3, TEN + LATE_S) == TEN


def test_a_time_that_was_missed_is_left_out_or_made_up_for_once():
    noticed = TEN + 0.3
    assert due(HOURLY, "skip", noticed, TEN + 2.5 * 3600) is None
    made_up = {due(HOURLY, "run_once", noticed + 3600 * hour, TEN + 2.5 * 3600) for hour in range(3)}
    assert made_up == {TEN + 2 * 3600}


def test_who_comes_back_makes_up_for_the_latest_time_only_and_for_none_before_the_schedule_began():
    now = TEN + 2.5 * 3600
    assert overdue(HOURLY, "run_once", TEN, now) == TEN + 2 * 3600
    assert overdue(HOURLY, "run_once", TEN + 2 * 3600, now) is None
    assert overdue(HOURLY, "skip", TEN, now) is None
