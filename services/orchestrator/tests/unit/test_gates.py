"""The gates' rules by example, and what they promise over random histories."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_orchestrator.domain.gates import (
    DECIDED_MAX,
    REFUSALS,
    SLICES,
    Gate,
    Outcome,
    advance,
    appetite,
    is_idle,
    leave,
    refusal,
)
from millrace_shared.codec import encode
from millrace_shared.gates import GateDocument, GateState, Waiting

NOW = 1_700_000_000.0


def gate(rule: Any = "concurrency", **terms: Any) -> Gate:
    return Gate("g", rule, "k", **terms)


@dataclass
class Door:
    """A gate with its tickets, as the keeper has them."""

    gate: Gate
    state: GateState = field(default_factory=GateState)
    now: float = NOW
    sequence: int = 0
    waiting: dict[str, Waiting] = field(default_factory=dict)
    arrived: list[str] = field(default_factory=list)
    admitted: list[tuple[str, float]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    inside: set[str] = field(default_factory=set)

    def come(self, *names: str) -> Outcome:
        for name in names:
            self.sequence += 1
            self.waiting[name] = Waiting(name, self.sequence, self.now)
            self.arrived.append(name)
        return self.look()

    def go(self, *names: str) -> Outcome:
        self.inside -= set(names)
        for name in names:
            self.waiting.pop(name, None)
        self.state = leave(self.state, names)
        return self.look()

    def later(self, seconds: float) -> Outcome:
        self.now += seconds
        return self.look()

    def look(self) -> Outcome:
        while True:
            undecided = [one for one in self.waiting.values() if one.sequence > self.state.cursor]
            tickets = undecided[: appetite(self.gate, self.state)]
            outcome = advance(self.gate, self.state, tickets, self.now)
            before, self.state = self.state, outcome.state
            for one in outcome.admitted:
                del self.waiting[one.execution_id]
                self.admitted.append((one.execution_id, self.now))
                self.inside.add(one.execution_id)
            for one in outcome.refused:
                del self.waiting[one.execution_id]
                self.refused.append(one.execution_id)
            self.cancelled += outcome.cancelled
            if self.state == before:
                return outcome

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.admitted]


def test_a_full_gate_keeps_one_waiting_until_another_leaves():
    door = Door(gate(limit=2))
    assert door.come("a", "b", "c", "d").is_full
    assert door.names == ["a", "b"]
    door.go("b")
    assert door.names == ["a", "b", "c"]
    assert not door.go("a", "c").is_full
    assert door.names == ["a", "b", "c", "d"]
    door.go("d")
    assert is_idle(door.state)


def test_who_leaves_while_waiting_is_passed_over():
    door = Door(gate(limit=1))
    door.come("a", "b", "c")
    door.go("b")
    door.go("a")
    assert door.names == ["a", "c"]


def test_a_gate_that_drops_turns_away_and_forgets():
    door = Door(gate(limit=1, on_limit="drop"))
    door.come("a", "b")
    assert door.refused == ["b"]
    door.go("a")
    door.come("c")
    assert door.names == ["a", "c"]


def test_the_oldest_makes_room_and_the_newest_takes_it():
    door = Door(gate(limit=1, on_limit="cancel_oldest"))
    door.come("a")
    assert door.come("b").is_full
    assert (door.cancelled, door.names) == (["a"], ["a"])
    door.come("c")  # b has not begun: it is not cancelled but turned away
    assert (door.cancelled, door.refused) == (["a"], ["b"])
    door.go("a")
    assert door.names == ["a", "c"]


def test_several_at_once_leave_the_newest():
    door = Door(gate(limit=2, on_limit="cancel_oldest"))
    door.come("a", "b")
    door.come("c", "d", "e")
    assert (door.cancelled, door.refused) == (["a", "b"], ["c"])
    door.go("b")
    door.go("a")
    assert door.names == ["a", "b", "d", "e"]


def test_a_throttle_admits_the_rest_when_the_time_is_up():
    door = Door(gate("throttle", limit=2, per_s=60.0))
    outcome = door.come("a", "b", "c")
    assert door.names == ["a", "b"]
    assert outcome.next_due is not None
    assert 60.0 <= outcome.next_due - NOW <= 60.0 * (1 + 2 / SLICES)
    door.later(59.9)
    assert door.names == ["a", "b"]
    door.now = outcome.next_due
    assert door.look().next_due is None
    assert door.names == ["a", "b", "c"]


def test_a_throttle_that_drops_turns_away():
    door = Door(gate("throttle", limit=1, per_s=60.0, on_limit="drop"))
    assert door.come("a", "b").next_due is None
    assert door.refused == ["b"]
    door.later(61)
    door.come("c")
    assert door.names == ["a", "c"]


def test_of_several_in_a_row_the_newest_runs_once_it_is_quiet():
    door = Door(gate("debounce", delay_s=30.0))
    assert door.come("a").next_due == NOW + 30
    door.later(20)
    assert door.come("b").next_due == NOW + 50
    assert door.refused == ["a"]
    door.later(29)
    assert door.names == []
    door.later(1)
    assert door.names == ["b"]
    assert is_idle(door.state)


def test_a_keeper_that_comes_late_does_not_turn_away_who_was_alone_in_time():
    door = Door(gate("debounce", delay_s=30.0))
    door.come("a")
    door.now += 100  # nobody has looked when it was due
    door.come("b")
    assert (door.names, door.refused) == (["a"], [])
    door.later(30)
    assert door.names == ["a", "b"]


def test_a_ticket_of_a_clock_that_is_ahead_waits_no_longer_than_others():
    outcome = advance(gate("debounce", delay_s=30.0), GateState(), [Waiting("a", 1, NOW + 5000)], NOW)
    assert outcome.next_due == NOW + 30


def test_the_newest_version_s_limit_counts_whoever_looks():
    old, new = gate(limit=3, version=1), gate(limit=1, version=2)
    door = Door(old)
    door.come("a", "b", "c", "d")
    door.gate = new
    door.look()
    door.gate = old
    door.go("a", "b")
    assert door.names == ["a", "b", "c"]
    door.go("c")
    assert door.names == ["a", "b", "c", "d"]


def test_a_throttle_of_another_length_still_counts_what_was_admitted():
    door = Door(gate("throttle", limit=2, per_s=60.0, version=1))
    door.come("a", "b")
    door.gate = gate("throttle", limit=2, per_s=600.0, version=2)
    door.later(120)
    door.come("c")
    assert door.names == ["a", "b"]
    door.later(500)
    assert door.names == ["a", "b", "c"]


@pytest.mark.parametrize(
    "terms", [{"limit": 3}, {"limit": 3, "on_limit": "drop"}, {"limit": 3, "on_limit": "cancel_oldest"}]
)
@pytest.mark.parametrize("rule", ["concurrency", "throttle", "debounce"])
def test_looking_again_changes_nothing(rule: Any, terms: dict[str, Any]):
    door = Door(gate(rule, per_s=10.0, delay_s=10.0, **terms))
    door.come("a", "b", "c", "d", "e")
    assert advance(door.gate, door.state, [], door.now).state == door.state


def test_leaving_without_having_come_is_nothing():
    door = Door(gate(limit=2))
    door.come("a")
    assert leave(door.state, {"z"}) is door.state


@pytest.mark.parametrize("rule", list(REFUSALS))
def test_a_refusal_says_why(rule: Any):
    for on_limit in ("drop", "cancel_oldest"):
        one = gate(rule, limit=3, per_s=60.0, delay_s=30.0, on_limit=on_limit)
        assert any(number in refusal(one, one.terms) for number in ("3", "30"))


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(1, 5)),
        st.tuples(st.just("go"), st.integers(0, 30)),
        st.tuples(st.just("later"), st.floats(0.0, 40.0)),
    ),
    max_size=60,
)


def play(door: Door, moves: list[tuple[str, Any]]) -> None:
    for move, argument in moves:
        if move == "come":
            door.come(*(f"e{len(door.arrived) + number}" for number in range(argument)))
        elif move == "later":
            door.later(argument)
        elif door.inside:
            door.go(sorted(door.inside)[argument % len(door.inside)])
        assert len(door.inside) <= door.gate.limit or door.gate.rule != "concurrency"
        assert door.inside >= set(door.state.inside)


def drain(door: Door) -> None:
    for _ in range(10_000):
        if not door.inside and not door.waiting:
            return
        door.now += 20.0
        door.go(*door.inside)
    raise AssertionError(f"still waiting: {door.waiting}")


def of_every_kind(limit: int) -> list[Gate]:
    return [
        *(gate("concurrency", limit=limit, on_limit=on_limit) for on_limit in ("queue", "drop", "cancel_oldest")),
        *(gate("throttle", limit=limit, per_s=10.0, on_limit=on_limit) for on_limit in ("queue", "drop")),
        gate("debounce", delay_s=10.0),
    ]


@given(MOVES, st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=300)
def test_everybody_is_told_exactly_one_thing_and_nobody_waits_for_ever(moves: Any, limit: int, kind: int):
    door = Door(of_every_kind(limit)[kind])
    play(door, moves)
    drain(door)
    assert sorted([*door.names, *door.refused]) == sorted(door.arrived)
    assert set(door.cancelled) <= set(door.names)
    assert is_idle(door.state)


@given(MOVES, st.integers(1, 4), st.integers(0, 5))
@settings(max_examples=300)
def test_who_came_first_is_admitted_first(moves: Any, limit: int, kind: int):
    door = Door(of_every_kind(limit)[kind])
    play(door, moves)
    drain(door)
    assert door.names == [name for name in door.arrived if name in set(door.names)]


@given(MOVES, st.integers(1, 4))
@settings(max_examples=200)
def test_nobody_is_turned_away_by_a_queue(moves: Any, limit: int):
    for rule in ("concurrency", "throttle"):
        door = Door(gate(rule, limit=limit, per_s=10.0))
        play(door, moves)
        assert not door.refused


@given(MOVES, st.integers(1, 4))
@settings(max_examples=200)
def test_nobody_waits_where_one_too_many_is_dropped(moves: Any, limit: int):
    for rule in ("concurrency", "throttle"):
        door = Door(gate(rule, limit=limit, per_s=10.0, on_limit="drop"))
        play(door, moves)
        assert not door.waiting


@given(MOVES, st.integers(1, 6), st.floats(0.001, 1e6), st.floats(1e9, 2e9))
@settings(max_examples=300)
def test_a_throttle_never_admits_more_than_its_limit_within_any_window(
    moves: Any, limit: int, per_s: float, now: float
):
    door = Door(gate("throttle", limit=limit, per_s=per_s), now=now)
    play(door, [(move, value * per_s / 20 if move == "later" else value) for move, value in moves])
    times = [at for _, at in door.admitted]
    for first, last in zip(times, times[limit:], strict=False):
        assert last - first >= per_s * (1 - 1e-9)


@given(st.integers(1, 4), st.integers(1, 4), st.floats(1.0, 100.0))
def test_a_throttle_is_open_again_when_it_says_so(limit: int, extra: int, per_s: float):
    door = Door(gate("throttle", limit=limit, per_s=per_s))
    due = door.come(*(f"e{number}" for number in range(limit + extra))).next_due
    assert due is not None
    assert due <= NOW + per_s * (1 + 2 / SLICES)
    door.now = due
    door.look()
    assert len(door.names) == min(2 * limit, limit + extra)


@given(MOVES)
@settings(max_examples=200)
def test_a_debounce_admits_the_one_that_none_followed_in_time(moves: Any):
    door = Door(gate("debounce", delay_s=10.0))
    came: dict[str, float] = {}
    for move, argument in moves:
        before = len(door.arrived)
        play(door, [(move, argument)])
        came |= dict.fromkeys(door.arrived[before:], door.now)
    drain(door)
    followed = dict(zip(door.arrived, door.arrived[1:], strict=False))
    alone = [one for one in door.arrived if one not in followed or came[followed[one]] - came[one] >= 10.0]
    assert door.names == alone


def test_sizes_do_not_grow_with_what_has_passed_or_waits():
    throttle = Door(gate("throttle", limit=10_000, per_s=60.0))
    for number in range(3000):
        throttle.come(f"e{number}")
        throttle.later(0.05)
    assert len(throttle.state.recent) <= SLICES + 1
    assert len(encode(GateDocument(0.0, throttle.state))) < 8_000
    full = Door(gate(limit=2))
    outcome = full.come(*(f"e{number}" for number in range(1000)))
    assert len(encode(GateDocument(0.0, full.state, outcome.notices))) < 300
    dropping = Door(gate(limit=1, on_limit="drop"))
    tickets = [Waiting(f"e{number}", number + 1, NOW) for number in range(2 * DECIDED_MAX)]
    assert appetite(dropping.gate, dropping.state) == DECIDED_MAX
    assert len(advance(dropping.gate, dropping.state, tickets[:DECIDED_MAX], NOW).notices) == DECIDED_MAX


def test_a_gate_wants_one_ticket_more_than_it_can_admit():
    door = Door(gate(limit=3))
    assert appetite(door.gate, door.state) == 4
    door.come("a", "b")
    assert appetite(door.gate, door.state) == 2
    assert appetite(replace(door.gate, limit=1), door.state) == 1
