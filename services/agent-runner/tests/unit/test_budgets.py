from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_agent_runner.domain.budgets import (
    Account,
    Amount,
    Breach,
    Budget,
    Busy,
    Fits,
    PeriodBudget,
    Wanted,
    answers_of,
    budgets_of,
    decide,
)
from millrace_agent_runner.domain.prices import ModelPrice, OwnPrices, read_prices
from millrace_agent_runner.domain.spending import Entry, State, closed
from millrace_shared.messages import Answer, BreachAction, BudgetScope

NOW = datetime(2026, 11, 20, 23, 59, tzinfo=UTC)


def usd(amount: str, tokens: int = 0, calls: int = 1) -> Amount:
    return Amount(Decimal(amount), tokens, calls)


def account(
    spent: str = "0", reserved: str = "0", bound: str = "1", action: BreachAction = "stop", **more: Any
) -> Account:
    return Account(
        Budget(f"s-{action}", "the budget", Decimal(bound), on_breach=action), usd(spent), usd(reserved), **more
    )


WANTED = Wanted(usd("0.2"), usd("0.1"))


@pytest.mark.parametrize(
    ("spent", "reserved", "kind"),
    [
        ("0", "0", Fits),
        ("0.8", "0", Fits),
        ("0.85", "0", Fits),  # the most does not fit, but nobody else is under way
        ("0.91", "0", Breach),
        ("0.5", "0.3", Fits),
        ("0.5", "0.4", Busy),
        ("0.91", "0.05", Breach),  # whatever comes back of what is held does not help
    ],
)
def test_a_call_fits_waits_or_breaks_the_budget(spent: str, reserved: str, kind: type) -> None:
    assert isinstance(decide([account(spent, reserved)], WANTED), kind)


def test_tokens_and_calls_bound_like_dollars() -> None:
    wanted = Wanted(Amount(None, 100, 1), Amount(None, 50, 1))
    tokens = Account(Budget("t", "the budget of step", tokens=120), Amount(Decimal(0), 80, 1))
    calls = Account(Budget("c", "the budget", calls=3), Amount(Decimal(0), 0, 2), Amount(Decimal(0), 0, 1))
    verdict = decide([tokens], wanted)
    assert isinstance(verdict, Breach)
    assert verdict.reason == "the budget of step is 120 tokens; 80 are used, and a call needs at least 50"
    assert isinstance(decide([calls], wanted), Busy)


def test_of_several_broken_budgets_the_gravest_decides_and_alerts_hold_nobody_up() -> None:
    broken = {action: account("1", action=action) for action in ("alert", "ask", "downgrade", "stop")}
    for action in ("stop", "downgrade", "ask"):
        verdict = decide(list(broken.values()), WANTED)
        assert isinstance(verdict, Breach)
        assert verdict.account is broken.pop(action)
    assert decide(list(broken.values()), WANTED) == Fits((broken["alert"],))
    assert decide([account("0.5", "0.5", action="alert")], WANTED) == Fits()


def test_an_unknown_price_breaks_budgets_in_dollars_unless_it_may_be_free() -> None:
    wanted = Wanted(Amount(None, 10, 1), Amount(None, 10, 1))
    verdict = decide([account()], wanted)
    assert isinstance(verdict, Breach)
    assert verdict.is_unpriced
    assert decide([account()], wanted, unpriced_fits=True) == Fits()
    assert decide([Account(Budget("t", "b", tokens=10))], wanted) == Fits()


def test_a_yes_raises_a_budget_once_however_often_it_comes() -> None:
    asking = account("1", action="ask")
    yes = {asking.ask}
    raised = asking.raised(yes)
    assert (raised.raises, raised.raised(yes).raises) == (1, 1)
    assert raised.ask != asking.ask
    assert decide([raised], WANTED) == Fits()
    assert account("1", action="stop").raised({account("1", action="stop").ask}).raises == 0
    answers = [Answer(asking.ask, True, 1.0), Answer("budget:x:y", True, 1.0), Answer("budget:x:0", False, 1.0)]
    assert answers_of(answers) == ({asking.ask}, {"budget:x:0"})


def test_budgets_of_steps_executions_workflows_and_workspaces_hold_together(step_factory: Any) -> None:
    scopes = (BudgetScope("e1/write", calls=3), BudgetScope("e1", Decimal(1)), BudgetScope("e0", tokens=9))
    step = step_factory("agent", execution_id="e1", step="write", budgets=scopes)
    periods = [
        PeriodBudget("default", "*", "day", Decimal(5), None, None, "stop"),
        PeriodBudget("default", "w-1", "month", None, 100, None, "alert"),
        PeriodBudget("default", "w-2", "day", None, 1, None, "stop"),
        PeriodBudget("other", "*", "day", None, 1, None, "stop"),
    ]
    found = budgets_of(step, periods, NOW)
    assert [budget.scope for budget in found] == [
        "e1/write",
        "e1",
        "e0",
        "day:2026-11-20:default:*",
        "month:2026-11:default:w-1",
    ]
    assert found[0].name == 'the budget of step "write" of the execution'
    assert found[2].name == "the budget of execution e0, which this is a part of"
    assert found[3].name == "the budget of workspace default for 2026-11-20"


amounts = st.decimals(0, 2, places=3)
positive = st.decimals("0.001", 2, places=3)


@given(bound=amounts, calls=st.lists(st.tuples(positive, amounts, st.booleans()), max_size=40))
def test_whatever_runs_in_parallel_spends_no_more_than_the_budget_and_one_call_beyond(
    bound: Decimal, calls: list[tuple[Decimal, Decimal, bool]]
) -> None:
    spent, reserved, over = Decimal(0), [], Decimal(0)
    for most, part, ends in calls:
        least = min(most, Decimal("0.01"))
        held = sum(reserved, Decimal(0))
        one = Account(Budget("s", "b", bound), usd(str(spent)), usd(str(held)))
        if isinstance(decide([one], Wanted(Amount(most, 0, 1), Amount(least, 0, 1))), Fits):
            over = max(over, most)
            reserved.append(most)
        if ends and reserved:
            spent += min(reserved.pop(0), part)
        assert spent + sum(reserved, Decimal(0)) <= bound + over
        assert spent + sum(reserved, Decimal(0)) <= bound or len(reserved) <= 1


states: st.SearchStrategy[State] = st.sampled_from(["settled", "presumed", "released"])


@given(st.lists(st.tuples(states, amounts, st.integers(0, 99)), max_size=8))
def test_an_entry_counts_once_whatever_is_said_of_it_and_in_any_order(
    said: list[tuple[State, Decimal, int]],
) -> None:
    entry = Entry("reserved", Decimal("0.5"), 50)
    reserved, spent = usd("0.5", 50), Amount()
    first = None
    for state, cost, tokens in said:
        changed = closed(entry, state, Amount(cost, tokens, 1))
        if changed is None:
            continue
        entry, shift = changed
        reserved = _plus(reserved, shift.freed, -1)
        spent = _plus(spent, shift.spent, 1)
        if first is None and state != "presumed":
            first = (state, cost, tokens)
    if said:
        assert reserved == Amount(Decimal(0), 0, 0)
    if first is not None and first[0] == "settled":
        assert spent == Amount(first[1], first[2], 1)
    elif first is not None:
        assert spent == Amount(Decimal(0), 0, 0)
    elif said:
        assert spent == usd("0.5", 50)


def _plus(one: Amount, other: Amount, sign: int) -> Amount:
    assert one.cost_usd is not None
    assert other.cost_usd is not None
    return Amount(
        one.cost_usd + sign * other.cost_usd, one.tokens + sign * other.tokens, one.calls + sign * other.calls
    )


def test_prices_of_the_operator_are_read_and_priced_by() -> None:
    text = """[{"provider": "openai", "model": "m", "input_per_million": 2, "output_per_million": "8.5",
        "cached_per_million": 0.5, "version": "2026-11"}]"""
    [price] = read_prices(text)
    assert price.cost_usd(1_000_000, 100_000, 400_000) == Decimal("2.25")
    prices = OwnPrices([price])
    prices.use([ModelPrice("openai", "m", Decimal(1), Decimal(1), "db")])
    assert (prices.of("openai", "m") or price).version == "db"
    prices.use([])
    assert prices.of("openai", "m") is price
    assert prices.of("groq", "m") is None


PRICE = '{"provider": "a", "model": "m", "input_per_million": 1, "output_per_million": 1, "version": "1"}'


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '[{"provider": "openai"}]',
        '[{"provider": "a b", "model": "m", "input_per_million": 1, "output_per_million": 1, "version": "1"}]',
        '[{"provider": "a", "model": "m", "input_per_million": -1, "output_per_million": 1, "version": "1"}]',
        '[{"provider": "a", "model": "m", "input_per_million": "NaN", "output_per_million": 1, "version": "1"}]',
        f"[{PRICE}, {PRICE}]",
    ],
)
def test_prices_that_cannot_be_meant_are_refused_at_the_start(text: str) -> None:
    with pytest.raises(ValueError, match=r"price"):
        read_prices(text)
