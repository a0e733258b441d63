from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_agent_runner.domain.credit import GUARD, KINDS, STANDING, UNCROWDED, Turns, crowded_max, divide
from millrace_agent_runner.settings import SLOTS_MIN
from millrace_shared.lanes import LANES, LANES_CROWDED, lane_of
from millrace_shared.messages import PRIORITIES

COUNT = len(LANES) * KINDS
FIRST_CROWDED = UNCROWDED * KINDS
MUCH = 1_000_000
amounts = st.lists(st.integers(0, 40), min_size=COUNT, max_size=COUNT)
floods = st.lists(st.sampled_from([0, MUCH]), min_size=COUNT, max_size=COUNT)


def lane(index: int) -> int:
    return index // KINDS


def wanted_in(*lanes: int, kind: int = 0) -> list[int]:
    return [MUCH if lane(index) in lanes and index % KINDS == kind else 0 for index in range(COUNT)]


@given(st.integers(-5, 64), st.integers(-5, 64), amounts)
def test_never_more_than_is_free_and_never_more_than_is_wanted(free: int, crowded: int, wanted: list[int]) -> None:
    given_ = divide(free, crowded, wanted, Turns())
    assert sum(given_) <= max(0, free)
    assert sum(given_[FIRST_CROWDED:]) <= max(0, crowded)
    assert all(0 <= more <= most for more, most in zip(given_, wanted, strict=True))


@given(st.integers(0, 64), st.integers(0, 64), amounts)
def test_nothing_stays_free_while_anybody_may_have_it(free: int, crowded: int, wanted: list[int]) -> None:
    may = sum(wanted[:FIRST_CROWDED]) + min(sum(wanted[FIRST_CROWDED:]), crowded)
    assert sum(divide(free, crowded, wanted, Turns())) == min(free, may)


def one_place(wanted: list[int], turns: Turns) -> int:
    [index] = [index for index, count in enumerate(divide(1, MUCH, wanted, turns)) if count]
    return index


@given(floods.filter(any), st.lists(floods, max_size=30))
def test_of_any_eight_places_one_goes_to_each_lower_lane_and_to_the_crowded_ones(
    wanted: list[int], before: list[list[int]]
) -> None:
    turns = Turns()
    for other in before:
        divide(1, MUCH, other, turns)
    order = [lane(one_place(wanted, turns)) for _ in range(200)]
    waiting = {lane(index) for index, count in enumerate(wanted) if count}
    if any(one < UNCROWDED for one in waiting) and any(one >= UNCROWDED for one in waiting):
        assert longest_without([one >= UNCROWDED for one in order]) < GUARD
    for tier in (range(UNCROWDED), range(UNCROWDED, len(LANES))):
        in_tier = [one for one in order if one in tier]
        for one in waiting.intersection(tier):
            assert longest_without([other == one for other in in_tier]) < GUARD


def longest_without(hits: list[bool]) -> int:
    """The longest run of places that went elsewhere."""
    longest = current = 0
    for hit in hits:
        current = 0 if hit else current + 1
        longest = max(longest, current)
    return longest


@given(st.lists(st.tuples(floods, st.integers(1, 3)), min_size=1, max_size=60))
def test_a_lower_lane_is_passed_over_seven_times_at_most_whatever_the_others_do(moments: list[Any]) -> None:
    turns = Turns()
    passed = [0] * len(LANES)
    for wanted, free in moments:
        for _ in range(free):
            chosen = [lane(index) for index, count in enumerate(divide(1, MUCH, wanted, turns)) if count]
            waiting = {lane(index) for index, count in enumerate(wanted) if count}
            for one in range(len(LANES)):
                same_tier = bool(chosen) and (chosen[0] < UNCROWDED) == (one < UNCROWDED)
                if one not in waiting or one in chosen:
                    passed[one] = 0
                elif same_tier:
                    passed[one] += 1
            for one in waiting:
                assert passed[one] < GUARD or one in {0, UNCROWDED}


@pytest.mark.parametrize("higher", range(UNCROWDED - 1))
def test_most_places_go_to_the_highest_lane(higher: int) -> None:
    turns = Turns()
    wanted = wanted_in(*range(higher, len(LANES)))
    order = [lane(one_place(wanted, turns)) for _ in range(800)]
    assert order.count(higher) > 0.6 * len(order)


def test_crowded_work_never_gets_the_last_eighth_of_the_slots() -> None:
    slots, held, turns = 32, 0, Turns()
    for _ in range(100):
        held += sum(divide(slots - held, crowded_max(slots) - held, wanted_in(3, 4, 5), turns))
    assert held == 28
    newcomer = wanted_in(1, 3)
    assert divide(slots - held, crowded_max(slots) - held, newcomer, turns)[KINDS] == slots - held


def test_at_rest_standing_requests_leave_a_slot_for_crowded_work_in_the_smallest_runner() -> None:
    standing = [1] * STANDING + [0] * (COUNT - STANDING)
    assert divide(32, crowded_max(32), standing, Turns()) == standing
    assert SLOTS_MIN > STANDING
    assert crowded_max(SLOTS_MIN) >= 1


def test_kinds_of_one_lane_take_turns_at_a_single_place() -> None:
    turns = Turns()
    wanted = [0] * KINDS + [MUCH] * KINDS + [0] * (COUNT - 2 * KINDS)
    chosen = [divide(1, 0, wanted, turns).index(1) for _ in range(2 * KINDS)]
    assert chosen == [*range(KINDS, 2 * KINDS)] * 2


@pytest.mark.parametrize("priority", PRIORITIES)
def test_a_crowded_lane_comes_after_every_other(priority: Any) -> None:
    assert lane_of(priority, crowded=False) == priority
    crowded = lane_of(priority, crowded=True)
    assert crowded in LANES_CROWDED
    assert crowded.startswith(priority)
    assert LANES.index(crowded) == LANES.index(priority) + len(PRIORITIES)
