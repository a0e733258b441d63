"""Which budgets hold for a call to a model, and whether it fits into what is left of them.

| what is left of a budget | then |
|---|---|
| less than the call needs at the least | a breach: the budget's `on_breach` |
| enough for the most that the call may use, with all that is reserved | the call is made |
| neither, and other calls hold reservations | it waits until they are settled: most of what they hold comes back |
| neither, and no other call is under way | the call is made, alone: it may go over by what it uses beyond the least |

So a budget is never overspent by more than the calls that are under way, whatever is tried, repeated or killed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Literal, NamedTuple

from millrace_shared.messages import Answer, BreachAction, RunStep

ANY = "*"
"""In a budget of a workspace: all of its workflows together."""
Period = Literal["day", "month"]
SCOPE_CHARS_MAX = 1_000
_DAY = "%Y-%m-%d"
_MONTH = "%Y-%m"
_ASK = re.compile(r"budget:(?P<scope>.*):(?P<raises>\d{1,9})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Amount:
    """What a call uses, or many: US dollars, tokens of input and output, and calls. A cost of None is unknown."""

    cost_usd: Decimal | None = Decimal(0)
    tokens: int = 0
    calls: int = 0


class Wanted(NamedTuple):
    """What a call will use: the most, and the least with which it makes sense to begin."""

    most: Amount
    least: Amount


@dataclass(frozen=True, slots=True)
class Budget:
    """What all calls within a scope may use together. A bound that is None does not exist.

    Attributes:
        scope: names the account that is charged.
        name: the same for people.
        cost_usd: US dollars.
        tokens: of input and output.
        calls: to models.
        on_breach: what happens when a call does not fit.
    """

    scope: str
    name: str
    cost_usd: Decimal | None = None
    tokens: int | None = None
    calls: int | None = None
    on_breach: BreachAction = "stop"


@dataclass(frozen=True, slots=True)
class PeriodBudget:
    """What a workspace, or one workflow of it, may use in each day or month of UTC."""

    workspace: str
    workflow_id: str
    period: Period
    max_cost_usd: Decimal | None
    max_tokens: int | None
    max_calls: int | None
    on_breach: BreachAction

    def at(self, now: datetime) -> Budget:
        """Return the budget of the day or month that `now` (UTC) lies in."""
        when = now.strftime(_DAY if self.period == "day" else _MONTH)
        whose = f"workspace {self.workspace}" if self.workflow_id == ANY else f"workflow {self.workflow_id}"
        return Budget(
            scope_of_period(self.workspace, self.workflow_id, self.period, now),
            f"the budget of {whose} for {when}",
            self.max_cost_usd,
            self.max_tokens,
            self.max_calls,
            self.on_breach,
        )


@dataclass(frozen=True, slots=True)
class Account:
    """A budget, with what is used and held of it.

    Attributes:
        budget: the bounds.
        spent: what calls have used.
        reserved: what calls that are under way may use.
        raises: how often people have allowed the budget once more.
        is_breached: a call has not fitted before.
    """

    budget: Budget
    spent: Amount = Amount()
    reserved: Amount = Amount()
    raises: int = 0
    is_breached: bool = False

    @property
    def ask(self) -> str:
        """The id of the question whether the budget may be had once more."""
        return f"budget:{self.budget.scope}:{self.raises}"

    def raised(self, approved: Collection[str]) -> Account:
        """Return the account after these questions were answered with yes. Many yeses to one question raise once."""
        account = self
        while self.budget.on_breach == "ask" and account.ask in approved:
            account = replace(account, raises=account.raises + 1)
        return account


class Fits(NamedTuple):
    """The call may be made. `alerts` are the budgets that it breaks and that only tell."""

    alerts: tuple[Account, ...] = ()


class Busy(NamedTuple):
    """There may be room when calls that are under way are settled. `reason` is what is waited for."""

    account: Account
    reason: str


class Breach(NamedTuple):
    """The call does not fit; `on_breach` of the account's budget says what happens. `is_unpriced`: nobody knows."""

    account: Account
    reason: str
    is_unpriced: bool = False


Verdict = Fits | Busy | Breach

_GRAVITY: dict[BreachAction, int] = {"stop": 0, "downgrade": 1, "ask": 2}


def budgets_of(step: RunStep, periods: Iterable[PeriodBudget], now: datetime) -> list[Budget]:
    """Return every budget that holds for the calls of an attempt."""
    found = [
        Budget(scope.id, _name(scope.id, step), scope.cost_usd, scope.tokens, scope.calls, scope.on_breach)
        for scope in step.budgets
    ]
    of_periods = (
        period.at(now)
        for period in periods
        if period.workspace == step.workspace and period.workflow_id in {ANY, step.workflow_id}
    )
    return [*found, *of_periods]


def scope_of_period(workspace: str, workflow_id: str, period: Period, now: datetime) -> str:
    """Return the account of a day or month. It is written into the database, so it never changes its form."""
    return f"{period}:{now.strftime(_DAY if period == 'day' else _MONTH)}:{workspace}:{workflow_id}"


def decide(accounts: Sequence[Account], wanted: Wanted, *, unpriced_fits: bool = False) -> Verdict:
    """Say whether a call fits into all of these accounts.

    Args:
        accounts: those that hold for it.
        wanted: what it may use.
        unpriced_fits: a call whose price is unknown counts as free, in place of breaking each bound in US dollars.
    """
    breaches: list[Breach] = []
    busy: list[Busy] = []
    for account in accounts:
        if wanted.most.cost_usd is None and account.budget.cost_usd is not None and not unpriced_fits:
            breaches.append(Breach(account, f"{account.budget.name} is in US dollars, and the price is unknown", True))
            continue
        found = _look(account, wanted)
        if isinstance(found, Breach):
            breaches.append(found)
        elif isinstance(found, Busy) and account.budget.on_breach != "alert":
            busy.append(found)
    held = [breach for breach in breaches if breach.account.budget.on_breach != "alert"]
    if held:
        return min(held, key=lambda breach: _GRAVITY[breach.account.budget.on_breach])
    if busy:
        return busy[0]
    return Fits(tuple(breach.account for breach in breaches))


def answers_of(answers: Iterable[Answer]) -> tuple[frozenset[str], frozenset[str]]:
    """Return which questions about budgets were answered with yes, and which with no."""
    asked = [answer for answer in answers if _ASK.fullmatch(answer.ask)]
    return (
        frozenset(answer.ask for answer in asked if answer.approved),
        frozenset(answer.ask for answer in asked if not answer.approved),
    )


def _look(account: Account, wanted: Wanted) -> Breach | Busy | None:
    """Compare one account with what is wanted, bound by bound."""
    budget, times = account.budget, account.raises + 1
    bounds = (
        (
            budget.cost_usd,
            account.spent.cost_usd or Decimal(0),
            account.reserved.cost_usd or Decimal(0),
            wanted.most.cost_usd or Decimal(0),
            wanted.least.cost_usd or Decimal(0),
            "US dollars",
        ),
        (
            budget.tokens,
            account.spent.tokens,
            account.reserved.tokens,
            wanted.most.tokens,
            wanted.least.tokens,
            "tokens",
        ),
        (budget.calls, account.spent.calls, account.reserved.calls, wanted.most.calls, wanted.least.calls, "calls"),
    )
    found: Busy | None = None
    for bound, spent, reserved, most, least, unit in bounds:
        if bound is None:
            continue
        left = bound * times - spent
        if least > left:
            used = f"{_text(spent)} are used, and a call needs at least {_text(least)}"
            return Breach(account, f"{budget.name} is {_text(bound * times)} {unit}; {used}")
        if reserved and most + reserved > left:
            held = f"which is {_text(bound * times)} {unit}: calls that are under way hold the rest"
            found = found or Busy(account, f"room in {budget.name}, {held}")
    return found


def _name(scope: str, step: RunStep) -> str:
    execution, _, of_step = scope.partition("/")
    whose = "the execution" if execution == step.execution_id else f"execution {execution}, which this is a part of"
    return f'the budget of step "{of_step}" of {whose}' if of_step else f"the budget of {whose}"


def _text(number: Decimal | int) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:f}".rstrip("0").rstrip(".") or "0"
