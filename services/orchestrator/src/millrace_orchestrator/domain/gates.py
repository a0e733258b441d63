"""Gates of flow control: who may pass, who waits, and who is turned away.

A gate stands before the first step of every execution that has the same value of a rule's key. It is a small immutable
state; executions that have come to it wait by their tickets, in the order of their stream sequence. Everything here is
pure: `advance` decides on tickets, `leave` lets go of executions, and time is a parameter.

| rule | one too many | |
|---|---|---|
| `concurrency` | `queue` | waits until one of those inside has ended |
| | `drop` | is turned away |
| | `cancel_oldest` | waits until the oldest inside, which is cancelled, has ended; newer ones come first |
| `throttle` | `queue` | waits until fewer than `limit` were admitted within the last `per_s` |
| | `drop` | is turned away |
| `debounce` | | each is turned away by the next one that comes within `delay_s`; one that none follows is admitted |
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from msgspec.structs import replace

from millrace_shared.gates import GateState, Notice, OnLimit, Terms, Waiting

Rule = Literal["debounce", "throttle", "concurrency"]

REFUSALS: dict[Rule, str] = {"concurrency": "concurrency_limit", "throttle": "throttled", "debounce": "debounced"}
"""The error code of an execution that a gate turns away."""

DECIDED_MAX = 500
"""Tickets that one change of a gate's state decides on: it bounds what the change has to tell."""

SLICES = 256
"""A throttle remembers admissions by slices of `per_s / SLICES`, so that its state is small whatever its limit."""

_NOT_YET = 1e-3
"""A part of a slice: a timer is set so much late, and not a rounding error early."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate, as a version of its workflow wants it.

    `id` is a UUID of workspace, workflow, rule and key. `version` is the workflow's: of two that come to the same gate
    the later one's limits count, from then on.
    """

    id: str
    rule: Rule
    key: str
    limit: int = 1
    per_s: float = 0.0
    delay_s: float = 0.0
    on_limit: OnLimit = "queue"
    version: int = 0

    @property
    def terms(self) -> Terms:
        """What this version says."""
        return Terms(self.version, self.limit, self.per_s, self.delay_s, self.on_limit)


@dataclass(frozen=True, slots=True)
class Enter:
    """Have an execution wait at a gate. Given again, what the gate has said is said again."""

    gate: Gate
    execution_id: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Let go of an execution that has ended, wherever at the gate it is."""

    gate: Gate
    execution_id: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of looking at a gate.

    Attributes:
        state: the gate afterwards; equal to the one before when nothing changed.
        admitted: who may pass, in order.
        refused: who is turned away.
        cancelled: who is inside and must make room.
        next_due: when time alone changes something, in Unix seconds; None when it does not.
        is_full: whether somebody waits for, or was turned away because of, those inside.
    """

    state: GateState
    admitted: tuple[Waiting, ...] = ()
    refused: tuple[Waiting, ...] = ()
    cancelled: tuple[str, ...] = ()
    next_due: float | None = None
    is_full: bool = False

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What is to be told whom. Who makes room comes first: others wait for it."""
        return (
            *(Notice(execution_id, "cancel") for execution_id in self.cancelled),
            *(Notice(one.execution_id, "admitted", one.sequence) for one in self.admitted),
            *(Notice(one.execution_id, "refused", one.sequence) for one in self.refused),
        )


def appetite(gate: Gate, state: GateState) -> int:
    """Return how many tickets `advance` has a use for: one more than it can admit tells that others wait."""
    terms = _terms(gate, state)
    if gate.rule == "concurrency" and terms.on_limit == "queue":
        return min(DECIDED_MAX, max(0, terms.limit - len(state.inside)) + 1)
    return DECIDED_MAX


def advance(gate: Gate, state: GateState, tickets: Sequence[Waiting], now: float) -> Outcome:
    """Decide on tickets.

    Args:
        gate: the gate, as the caller's version of the workflow wants it.
        state: what the gate remembers.
        tickets: the first `appetite` waiting tickets after the state's cursor, or all there are, by sequence.
        now: Unix seconds.
    """
    look = _Look(_adopt(gate, state), now, tickets)
    _RULES[gate.rule](look)
    return look.outcome()


def leave(state: GateState, execution_ids: Collection[str]) -> GateState:
    """Return the state without these executions, wherever they were; the same one when they were nowhere."""
    gone = frozenset(execution_ids)
    if gone.isdisjoint(state.inside) and not any(one.execution_id in gone for one in state.next):
        return state
    return replace(
        state,
        inside=tuple(one for one in state.inside if one not in gone),
        leaving=tuple(one for one in state.leaving if one not in gone),
        next=tuple(one for one in state.next if one.execution_id not in gone),
    )


def is_idle(state: GateState) -> bool:
    """Whether nobody is inside or taken in, so that the state only matters for as long as it takes to forget it."""
    return not state.inside and not state.next


def refusal(gate: Gate, terms: Terms) -> str:
    """Say to people why an execution is turned away."""
    if gate.rule == "throttle":
        return f"as many executions have begun as may within {terms.per_s:g} s: {terms.limit}"
    if gate.rule == "debounce":
        return f"a newer execution came within {terms.delay_s:g} s"
    if terms.on_limit == "cancel_oldest":
        return f"a newer execution takes its place; at most so many may run at the same time: {terms.limit}"
    return f"as many executions run as may at the same time: {terms.limit}"


@dataclass(slots=True)
class _Look:
    """One look at a gate, as it goes on."""

    state: GateState
    now: float
    tickets: Sequence[Waiting]
    admitted: list[Waiting] = field(default_factory=list)
    refused: list[Waiting] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    next_due: float | None = None
    is_full: bool = False

    def taken(self, count: int) -> int:
        """Return the cursor once the first `count` tickets are decided or taken in."""
        return self.tickets[count - 1].sequence if count else self.state.cursor

    def outcome(self) -> Outcome:
        return Outcome(
            self.state,
            tuple(self.admitted),
            tuple(self.refused),
            tuple(self.cancelled),
            self.next_due,
            self.is_full,
        )


def _terms(gate: Gate, state: GateState) -> Terms:
    return gate.terms if gate.version >= state.terms.version else state.terms


def _adopt(gate: Gate, state: GateState) -> GateState:
    """Return the state under the newest version's terms."""
    terms = _terms(gate, state)
    if terms == state.terms:
        return state
    recent = state.recent
    if (
        terms.per_s != state.terms.per_s and recent
    ):  # slices of another length: an admission counts as at its slice's end
        length = state.terms.per_s / terms.per_s
        recent = _counted((math.floor((number + 1) * length), count) for number, count in recent)
    return replace(state, terms=terms, recent=recent)


def _concurrency(look: _Look) -> None:
    if look.state.terms.on_limit == "cancel_oldest":
        _cancel_oldest(look)
        return
    state = look.state
    room = max(0, state.terms.limit - len(state.inside))
    look.admitted += look.tickets[:room]
    rest = look.tickets[room:]
    if state.terms.on_limit == "drop":
        look.refused += rest
    look.is_full = bool(rest)
    inside = (*state.inside, *(one.execution_id for one in look.admitted))
    look.state = replace(state, inside=inside, cursor=look.taken(len(look.admitted) + len(look.refused)))


def _cancel_oldest(look: _Look) -> None:
    """Of those inside and those that wait the newest `limit` stay; who waits is admitted as others make room."""
    state = look.state
    waiting = [*state.next, *look.tickets]
    staying = [one for one in state.inside if one not in state.leaving]
    surplus = max(0, len(staying) + len(waiting) - state.terms.limit)
    look.cancelled += staying[:surplus]
    superseded = max(0, surplus - len(staying))
    look.refused += waiting[:superseded]
    room = max(0, state.terms.limit - len(state.inside))
    candidates = waiting[superseded:]
    look.admitted += candidates[:room]
    look.is_full = len(candidates) > room
    look.state = replace(
        state,
        inside=(*state.inside, *(one.execution_id for one in look.admitted)),
        leaving=(*state.leaving, *look.cancelled),
        next=tuple(candidates[room:]),
        cursor=look.taken(len(look.tickets)),
    )


def _throttle(look: _Look) -> None:
    """Admit at most `limit` within any `per_s`.

    An admission counts until one slice more than `per_s` after its own slice began, so it counts for at least `per_s`.
    """
    terms = look.state.terms
    length_s = terms.per_s / SLICES
    current = math.floor(look.now / length_s)
    recent = [(number, count) for number, count in look.state.recent if current - number <= SLICES]
    room = max(0, terms.limit - sum(count for _, count in recent))
    look.admitted += look.tickets[:room]
    if look.admitted:
        recent = list(_counted([*recent, (current, len(look.admitted))]))
    rest = look.tickets[room:]
    if terms.on_limit == "drop":
        look.refused += rest
    elif rest:
        look.next_due = (recent[0][0] + SLICES + 1 + _NOT_YET) * length_s
    if look.tickets[: len(look.admitted) + len(look.refused)]:
        cursor = look.taken(len(look.admitted) + len(look.refused))
        look.state = replace(look.state, recent=tuple(recent), cursor=cursor)


def _debounce(look: _Look) -> None:
    """Let each one that comes replace the one before it, unless that one's time had come by then."""
    delay_s = look.state.terms.delay_s
    newest = look.state.next[0] if look.state.next else None
    for ticket in look.tickets:
        at = min(ticket.at, look.now)  # a clock that is ahead must not make it wait for longer
        if newest is not None:
            (look.admitted if at >= newest.at + delay_s else look.refused).append(newest)
        newest = Waiting(ticket.execution_id, ticket.sequence, at)
    if newest is not None and look.now >= newest.at + delay_s:
        look.admitted.append(newest)
        newest = None
    if newest is not None:
        look.next_due = newest.at + delay_s
    after = () if newest is None else (newest,)
    look.state = replace(look.state, next=after, cursor=look.taken(len(look.tickets)))


def _counted(slices: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return slices in order, each one once."""
    counts: Counter[int] = Counter()
    for number, count in slices:
        counts[number] += count
    return tuple(sorted(counts.items()))


_RULES: dict[Rule, Callable[[_Look], None]] = {
    "concurrency": _concurrency,
    "throttle": _throttle,
    "debounce": _debounce,
}
