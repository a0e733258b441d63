"""One call to a model as the ledger knows it: whose it is, what is held for it, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.budgets import Amount

NO_ITEM = -1
"""The item of a step that has none."""
LATE_S = 60.0
"""What an attempt holds is renewed no longer than this after it must have ended."""

State = Literal["reserved", "settled", "presumed", "released"]


Row = tuple[str, str, int, int, int, int]
"""The key of an entry: that of its call, and which try it is."""


class CallKey(NamedTuple):
    """One call of one conversation: the same for whoever makes it again."""

    execution_id: str
    step: str
    item: int
    iteration: int
    call: int

    @classmethod
    def of(cls, attempt: Attempt) -> CallKey:
        """Return the key of the call that an attempt is about to make."""
        step = attempt.step
        return cls(
            step.execution_id, step.step, NO_ITEM if step.item is None else step.item, step.iteration, attempt.call
        )


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is held for one try of a call, in all of its accounts."""

    key: CallKey
    number: int
    scopes: tuple[str, ...]

    @property
    def row(self) -> Row:
        """The key of its entry."""
        return (*self.key, self.number)


class Entry(NamedTuple):
    """An entry of the ledger, as far as sums need it."""

    state: State
    cost_usd: Decimal | None
    tokens: int


class Shift(NamedTuple):
    """By how much the accounts of an entry change: what is held becomes less, what is spent becomes more."""

    freed: Amount
    spent: Amount


def closed(entry: Entry, state: State, used: Amount | None) -> tuple[Entry, Shift] | None:
    """Return an entry after its call has ended, and what that changes. None: it changes nothing.

    What is known for certain replaces what was presumed, and nothing replaces what is certain: whatever comes twice, or
    late, counts once.

    Args:
        entry: as it is.
        state: what it becomes; not `reserved`.
        used: what the call used, for `settled`; a cost of None is unknown.
    """
    if entry.state in {"settled", "released"} or entry.state == state:
        return None
    match state:
        case "settled" if used is not None:
            after = Entry("settled", used.cost_usd, used.tokens)
        case "released":
            after = Entry("released", Decimal(0), 0)
        case _:
            after = Entry("presumed", entry.cost_usd, entry.tokens)
    was_reserved = entry.state == "reserved"
    before_spent = Amount() if was_reserved else _counted(entry)
    after_spent = _counted(after)
    spent = Amount(
        (after_spent.cost_usd or Decimal(0)) - (before_spent.cost_usd or Decimal(0)),
        after_spent.tokens - before_spent.tokens,
        after_spent.calls - before_spent.calls,
    )
    return after, Shift(_counted(entry) if was_reserved else Amount(), spent)


def _counted(entry: Entry) -> Amount:
    """What an entry counts for; a cost that is unknown is no part of any sum."""
    return Amount() if entry.state == "released" else Amount(entry.cost_usd or Decimal(0), entry.tokens, 1)
