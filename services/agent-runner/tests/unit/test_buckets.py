import itertools
import math
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_agent_runner.domain.buckets import BURST, PACE, PARTS, PARTS_COUNTED, Bucket

MINUTE_S = 60.0
START = 1_700_000_000.0

sizes = st.lists(st.integers(1, 1_000), min_size=1, max_size=80)
gaps = st.floats(0, 90, allow_nan=False)


def most_in_a_minute(taken: list[tuple[float, int]]) -> int:
    """The most units in any minute that begins with a call: no other minute holds more."""
    times = [at for at, _ in taken]
    sums = list(itertools.accumulate((units for _, units in taken), initial=0))
    return max(sums[bisect_left(times, at + MINUTE_S)] - sums[index] for index, at in enumerate(times))


@given(st.lists(st.tuples(st.integers(1, 1_000), gaps), min_size=1, max_size=80))
def test_no_minute_wherever_it_begins_holds_more_than_the_limit(asked: list[tuple[int, float]]) -> None:
    bucket, now, taken = Bucket(1_000), START, []
    for units, gap in asked:
        now = bucket.room_at(units, 0, now + gap)
        bucket = bucket.take(units, now)
        taken.append((now, units))
    assert most_in_a_minute(taken) <= 1_000


@given(st.lists(st.tuples(st.integers(1, 1_000), st.integers(1, 1_000), gaps), min_size=1, max_size=60))
def test_what_was_settled_counts_as_what_it_used(asked: list[tuple[int, int, float]]) -> None:
    bucket, now, used = Bucket(1_000), START, []
    for estimated, actual, gap in asked:
        now = bucket.room_at(estimated, 0, now + gap)
        bucket = bucket.take(estimated, now).settle(now, min(actual, estimated) - estimated, now)
        used.append((now, min(actual, estimated)))
    assert most_in_a_minute(used) <= 1_000
    assert sum(bucket.used) <= 1_000


@given(sizes, st.floats(0, 1, allow_nan=False))
def test_there_is_room_when_it_was_said_and_not_before(asked: list[int], share: float) -> None:
    bucket = Bucket(1_000)
    for units in asked:
        at = bucket.room_at(units, 0, START)
        between = START + (at - START) * share
        if between < at - 1e-3:
            assert bucket.room_at(units, 0, between) > between
        assert bucket.room_at(units, 0, at) == at
        bucket = bucket.take(units, at)


@given(sizes)
def test_whoever_stands_further_back_is_let_in_later(asked: list[int]) -> None:
    bucket = Bucket(1_000).take(1_000, START)
    ahead = list(itertools.accumulate(asked, initial=0))
    turns = [bucket.room_at(units, before, START) for units, before in zip(asked, ahead, strict=False)]
    smallest = [bucket.room_at(1, before, START) for before in ahead]
    assert smallest == sorted(smallest)
    assert all(START < turn < math.inf for turn in turns)


@pytest.mark.parametrize(("units", "least"), [(1, 0.95), (10, 0.95), (50, 0.93), (100, 0.9), (300, 0.85)])
def test_small_calls_and_large_ones_get_nearly_all_of_the_limit(units: int, least: float) -> None:
    bucket, now, taken = Bucket(1_000), START, []
    while now < START + 10 * MINUTE_S:
        now = bucket.room_at(units, 0, now)
        bucket = bucket.take(units, now)
        taken.append((now, units))
    assert sum(units for _, units in taken) / 10 >= least * 1_000
    assert most_in_a_minute(taken) <= 1_000


def test_a_bucket_at_rest_lets_a_burst_through_and_then_keeps_the_pace() -> None:
    bucket, waits = Bucket(600), []
    for _ in range(100):
        at = bucket.room_at(1, 0, START)
        waits.append(at - START)
        bucket = bucket.take(1, at)
    at_once = sum(wait == 0 for wait in waits)
    assert at_once == pytest.approx(PACE * 600 * BURST, abs=2)
    assert waits[-1] - waits[-2] == pytest.approx(MINUTE_S / (PACE * 600))


def test_the_whole_limit_may_be_one_call_and_a_minute_passes_before_the_next() -> None:
    bucket = Bucket(6_000)
    assert bucket.room_at(6_000, 0, START) == START
    again = bucket.take(6_000, START).room_at(1, 0, START)
    assert MINUTE_S < again - START <= MINUTE_S * PARTS_COUNTED / PARTS


def test_a_call_that_used_less_makes_room_and_one_that_used_more_takes_it() -> None:
    taken = Bucket(600).take(300, START)
    assert taken.settle(START, -300, START).room_at(300, 0, START) == START
    more = taken.settle(START, 300, START + 1)
    assert sum(more.used) == 600
    assert more.room_at(1, 0, START + 1) > taken.room_at(1, 0, START + 1)


def test_what_is_settled_after_its_minute_changes_nothing() -> None:
    late = START + 200
    before = Bucket(600).take(300, START).take(10, late)
    assert before.settle(START, -300, late).room_at(500, 5, late) == before.room_at(500, 5, late)


def test_a_clock_that_was_set_back_lets_nothing_through_twice() -> None:
    bucket = Bucket(600).take(600, START)
    assert sum(bucket.take(1, START - 30).used) == 601
    assert bucket.room_at(1, 0, START - 30) > START
