from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from millrace_agent_runner.domain.credit import divide

COUNT = 9
RANKS = [0, 0, 0, 1, 1, 1, 2, 2, 2]
amounts = st.lists(st.integers(0, 40), min_size=COUNT, max_size=COUNT)


@given(st.integers(-5, 64), amounts, amounts, st.integers(0, 100))
def test_never_more_than_is_free_and_never_more_than_is_wanted(free: Any, asked: Any, backlog: Any, turn: Any) -> None:
    extra = divide(free, asked, backlog, RANKS, turn)
    assert sum(extra) <= max(0, free)
    for more, has, waits in zip(extra, asked, backlog, strict=True):
        assert more >= 0
        assert has + more <= max(has, waits, 1)


@given(st.integers(0, 64), amounts, amounts, st.integers(0, 100))
def test_nothing_stays_free_while_work_is_known_to_wait(free: Any, asked: Any, backlog: Any, turn: Any) -> None:
    extra = divide(free, asked, backlog, RANKS, turn)
    wanted = sum(max(0, max(waits, 1) - has) for has, waits in zip(asked, backlog, strict=True))
    assert sum(extra) == min(free, wanted)


@given(st.integers(0, 64), amounts, amounts, st.integers(0, 100))
def test_a_lower_priority_gets_more_than_its_standing_place_only_when_a_higher_one_wants_none(
    free: Any, asked: Any, backlog: Any, turn: Any
) -> None:
    extra = divide(free, asked, backlog, RANKS, turn)
    unmet = [max(waits, 1) > has + more for has, waits, more in zip(asked, backlog, extra, strict=True)]
    for low in range(COUNT):
        if asked[low] + extra[low] > 1 and extra[low]:
            assert not any(unmet[high] for high in range(COUNT) if RANKS[high] < RANKS[low])


def test_at_rest_each_consumer_keeps_one_place() -> None:
    assert divide(32, [0] * COUNT, [0] * COUNT, RANKS, 0) == [1] * COUNT


def test_equals_take_turns_at_a_single_place() -> None:
    backlog = [0, 0, 0, 50, 50, 50, 0, 0, 0]
    firsts = {divide(1, [1] * COUNT, backlog, RANKS, turn).index(1) for turn in range(COUNT)}
    assert firsts == {3, 4, 5}
