"""Lines of starts and the count of attempts under way: nobody is held up, nothing is lost, memory is bounded."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from millrace_orchestrator.domain.fairness import CROWD, ENTRY_BYTES, Crowds, Lines

WORKSPACES = st.sampled_from(("a", "b", "c"))


def filled(**lengths: int) -> Lines[str]:
    lines: Lines[str] = Lines(10**9)
    for workspace, length in lengths.items():
        for number in range(length):
            lines.put(workspace, f"{workspace}{number}", f"{workspace}{number}", 0, begun=False)
    return lines


def test_a_newcomer_is_taken_at_once_however_long_another_line_is() -> None:
    lines = filled(a=10_000)
    assert lines.take(3) == ["a0", "a1", "a2"]
    lines.put("b", "b0", "b0", 0, begun=False)
    assert "b0" in lines.take(2)


def test_lines_are_served_in_rotation_and_each_in_its_order() -> None:
    assert filled(a=3, b=2, c=1).take(10) == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_what_has_begun_and_what_has_not_take_turns() -> None:
    lines = filled(a=3)
    for number in range(3):
        lines.put("a", f"under way {number}", f"under way {number}", 0, begun=True)
    assert lines.take(4) == ["under way 0", "a0", "under way 1", "a1"]


def test_what_comes_again_takes_the_place_of_what_waits() -> None:
    lines = filled(a=2)
    assert lines.put("a", "a0", "again", 0, begun=False) == []
    assert len(lines) == 2
    assert lines.get("a0") == "again"
    assert lines.take(2) == ["again", "a1"]


def test_one_can_be_taken_out_of_its_turn_once() -> None:
    lines = filled(a=3)
    assert lines.pop("a1") == "a1"
    assert lines.pop("a1") is None
    assert "a1" not in lines
    assert lines.take(5) == ["a0", "a2"]
    assert lines.length("a") == len(lines) == 0


def test_beyond_the_limit_the_longest_line_gives_up_its_last_and_a_newcomer_gets_in() -> None:
    lines: Lines[str] = Lines(10 * ENTRY_BYTES)
    for number in range(10):
        assert lines.put("a", f"a{number}", f"a{number}", 0, begun=number == 0) == []
    assert lines.put("a", "a10", "a10", 0, begun=False) == ["a10"]
    assert lines.put("b", "b0", "b0", 0, begun=False) == ["a9"]
    assert sorted(lines) == sorted([*(f"a{number}" for number in range(9)), "b0"])


def test_what_has_begun_is_given_up_last() -> None:
    lines: Lines[str] = Lines(2 * ENTRY_BYTES)
    lines.put("a", "fresh", "fresh", 0, begun=False)
    lines.put("a", "begun 1", "begun 1", 0, begun=True)
    assert lines.put("a", "begun 2", "begun 2", 0, begun=True) == ["fresh"]


def test_a_start_that_is_larger_than_the_limit_is_kept_when_nothing_else_waits() -> None:
    lines: Lines[str] = Lines(10)
    assert lines.put("a", "a0", "large", 1_000_000, begun=False) == []
    assert lines.take(1) == ["large"]


@given(st.lists(st.tuples(st.sampled_from(("put", "pop", "take")), WORKSPACES, st.integers(0, 8), st.booleans())))
def test_nothing_is_lost_or_doubled_whatever_happens(moves: list[tuple[str, str, int, bool]]) -> None:
    lines: Lines[str] = Lines(12 * ENTRY_BYTES)
    waiting: set[str] = set()
    for move, workspace, number, begun in moves:
        key = f"{workspace}{number}"
        match move:
            case "put":
                waiting.add(key)
                waiting -= set(lines.put(workspace, key, key, 0, begun=begun))
            case "pop":
                assert (lines.pop(key) is not None) == (key in waiting)
                waiting.discard(key)
            case _:
                taken = lines.take(number)
                assert len(taken) == len(set(taken)) == min(number, len(waiting))
                waiting -= set(taken)
        assert set(lines) == waiting
        assert sum(lines.length(one) for one in "abc") == len(lines) <= 12
    assert set(lines.take(100)) == waiting
    assert lines.take(1) == []


@given(st.dictionaries(WORKSPACES, st.integers(1, 30), min_size=1), st.integers(1, 60))
def test_no_line_gets_more_than_one_turn_ahead_of_another_that_still_waits(lengths: dict[str, int], count: int) -> None:
    turns = Counter(one[0] for one in filled(**lengths).take(count))
    for workspace, length in lengths.items():
        if turns[workspace] < length:
            assert max(turns.values()) <= turns[workspace] + 1


def test_a_workspace_is_crowded_by_what_runs_and_no_longer_when_it_has_ended() -> None:
    crowds = Crowds()
    for number in range(CROWD + 1):
        assert not crowds.is_crowded("a")
        crowds.note(f"e{number}", "a", 1)
    assert crowds.is_crowded("a")
    assert not crowds.is_crowded("b")
    crowds.forget("e0")
    crowds.forget("e0")
    assert not crowds.is_crowded("a")


def test_the_count_is_that_of_the_last_notes_and_keeps_nothing_of_what_is_over() -> None:
    rng, crowds, truth = random.Random(1), Crowds(), {}
    for _ in range(5_000):
        execution = f"e{rng.randrange(40)}"
        truth[execution] = rng.randrange(4)
        crowds.note(execution, "a", truth[execution])
    assert crowds.is_crowded("a") == (sum(truth.values()) > CROWD)
    for execution in truth:
        crowds.forget(execution)
    assert vars(crowds) == {"_of_execution": {}, "_of_workspace": {}}
