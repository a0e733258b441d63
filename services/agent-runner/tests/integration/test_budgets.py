"""Budgets of agent steps: a real provider's protocol, and the ledger in a real Postgres."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from millrace_agent_runner.adapters.database import open_database
from millrace_agent_runner.adapters.ledger import Ledger
from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.domain.budgets import Amount, Wanted
from millrace_agent_runner.domain.prices import ModelPrice, OwnPrices
from millrace_agent_runner.errors import Deferred, RetryableFailure, TerminalFailure
from millrace_agent_runner.executors.agent.executor import AgentExecutor
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads
from millrace_shared.messages import Answer, BudgetBreached, BudgetScope, LlmCall, TokenDelta
from millrace_shared.testing.providers import FakeProviders, hang_up, refused, reply
from millrace_shared.testing.waiting import eventually

DEAR = ModelPrice("openai", "m", Decimal(1_000), Decimal(1_000), "test")
"""A tenth of a cent for each token."""
CHEAP = ModelPrice("openai", "cheap", Decimal(1), Decimal(1), "test")
TWENTY = reply("ok", input_tokens=15, output_tokens=5)
"""An answer that costs two cents of the dear model."""


class Recorded:
    def __init__(self) -> None:
        self.calls: list[LlmCall] = []
        self.breaches: list[BudgetBreached] = []

    def llm_call(self, fact: LlmCall) -> None:
        self.calls.append(fact)

    def token_delta(self, fact: TokenDelta) -> None:
        pass

    def budget_breached(self, fact: BudgetBreached) -> None:
        self.breaches.append(fact)


class Runner:
    """The agents of one runner, and its ledger."""

    def __init__(self, agents: AgentExecutor, ledger: Ledger, pool: Any, facts: Recorded) -> None:
        self.agents = agents
        self.ledger = ledger
        self.pool = pool
        self.facts = facts

    async def written(self) -> None:
        """Wait for what is being written, and see that every cent is accounted for."""
        while self.ledger._tasks:
            await next(iter(self.ledger._tasks))
        assert await self.pool.fetch(DIFFERENCES) == []

    async def spent(self, scope: str) -> tuple[Decimal, int, int]:
        await self.written()
        row = await self.pool.fetchrow(
            "SELECT spent_usd, spent_tokens, spent_calls FROM spend.accounts WHERE scope = $1", scope
        )
        return tuple(row) if row else (Decimal(0), 0, 0)

    async def states(self) -> list[str]:
        await self.written()
        rows = await self.pool.fetch("SELECT state FROM spend.entries ORDER BY execution_id, call, try")
        return [row["state"] for row in rows]


DIFFERENCES = """
SELECT a.scope FROM spend.accounts AS a LEFT JOIN LATERAL (
    SELECT coalesce(sum(cost_usd) FILTER (WHERE state IN ('settled', 'presumed')), 0) AS usd,
        coalesce(sum(tokens) FILTER (WHERE state IN ('settled', 'presumed')), 0) AS tokens,
        count(*) FILTER (WHERE state IN ('settled', 'presumed')) AS calls,
        coalesce(sum(cost_usd) FILTER (WHERE state = 'reserved'), 0) AS held_usd,
        coalesce(sum(tokens) FILTER (WHERE state = 'reserved'), 0) AS held_tokens,
        count(*) FILTER (WHERE state = 'reserved') AS held_calls
    FROM spend.entries WHERE a.scope = ANY(scopes)) AS e ON true
WHERE (a.spent_usd, a.spent_tokens, a.spent_calls, a.reserved_usd, a.reserved_tokens, a.reserved_calls)
    IS DISTINCT FROM (e.usd, e.tokens, e.calls, e.held_usd, e.held_tokens, e.held_calls)
"""
"""Accounts that are not the sum of their entries."""


@pytest.fixture
async def start(fresh_database_url: str, providers: FakeProviders, journals: Any) -> AsyncIterator[Callable[..., Any]]:
    opened: list[tuple[Any, Runner, HttpExecutor]] = []

    async def start_runner(url: str = providers.openai_url) -> Runner:
        database = open_database(fresh_database_url, 4)
        pool = await database.__aenter__()
        assert pool is not None
        prices = OwnPrices([DEAR, CHEAP])
        ledger = Ledger(pool, prices.use)
        await ledger.start()
        facts, http = Recorded(), HttpExecutor(Allowed())
        python = PythonExecutor(Functions(()), Threads(2))
        agents = AgentExecutor(facts, journals, http, python, {}, url, None, ledger, prices)
        opened.append((database, Runner(agents, ledger, pool, facts), http))
        return opened[-1][1]

    yield start_runner
    for database, runner, http in opened:
        await runner.agents.close()
        await http.close()
        await runner.ledger.stop()
        await database.__aexit__(None, None, None)


@pytest.fixture
def attempt(step_factory: Any, attempt_factory: Any) -> Callable[..., Any]:
    def make(budget: Any = None, agent: Any = None, **fields: Any) -> Any:
        spec = {"agent": {"name": "a", "model": "openai:m", **(agent or {})}}
        budgets = (BudgetScope("e", **budget),) if budget else ()
        return attempt_factory(step_factory("agent", spec, {"prompt": "Why?"}, **{"budgets": budgets, **fields}))

    return make


async def test_a_call_is_charged_what_it_used_in_every_account(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runner = await start()
    providers.script = TWENTY
    await runner.pool.execute("INSERT INTO spend.budgets (workspace, period, max_calls) VALUES ('default', 'day', 9)")
    await runner.ledger.read()
    scopes = (BudgetScope("e/s", tokens=10_000), BudgetScope("e", Decimal(50)))
    assert await runner.agents(attempt(budgets=scopes)) == "ok"
    for scope in ("e/s", "e"):
        assert await runner.spent(scope) == (Decimal("0.02"), 20, 1)
    row = await runner.pool.fetchrow(
        "SELECT spent_usd, spent_calls FROM spend.accounts WHERE scope LIKE 'day:%:default:*'"
    )
    assert tuple(row) == (Decimal("0.02"), 1)
    assert runner.facts.calls[0].price_version == "test"
    assert runner.facts.calls[0].cost_usd == Decimal("0.02")


async def test_a_used_up_budget_stops_the_step_before_the_call(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runner = await start()
    assert await runner.agents(attempt({"calls": 1})) == "ok"
    with pytest.raises(TerminalFailure, match=r"the budget of .* is 1 calls; 1 are used") as caught:
        await runner.agents(attempt({"calls": 1}))
    assert caught.value.category == "budget_exceeded"
    assert len(providers.calls) == 1
    assert [fact.on_breach for fact in runner.facts.breaches] == ["stop"]
    with pytest.raises(TerminalFailure):
        await runner.agents(attempt({"calls": 1}))
    assert len(runner.facts.breaches) == 1  # told once
    assert await runner.spent("e") == (Decimal(runner.facts.calls[0].cost_usd or 0), runner_tokens(runner), 1)


def runner_tokens(runner: Runner) -> int:
    return sum(call.input_tokens + call.output_tokens for call in runner.facts.calls)


async def test_parallel_calls_wait_for_what_others_hold_and_overspend_by_none(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runners = [await start(), await start()]
    providers.script = TWENTY
    done: list[str] = []

    async def step(number: int) -> None:
        while True:
            try:
                done.append(
                    await runners[number % 2].agents(attempt({"cost_usd": Decimal("0.3")}, {"model": "openai:m"}))
                )
            except Deferred as deferred:
                done.append(deferred.deferral.reason)
            except TerminalFailure:
                done.append("stopped")
                return
            else:
                return

    async with asyncio.timeout(180):
        await asyncio.gather(*(step(number) for number in range(12)))
    usd, _, calls = await runners[0].spent("e")
    assert calls == len(providers.calls) == done.count("ok")
    assert set(done) <= {"ok", "stopped", "budget"}
    assert usd == Decimal("0.02") * len(providers.calls) <= Decimal("0.3")


async def test_a_breach_may_go_down_to_the_next_model(start: Any, attempt: Any, providers: FakeProviders) -> None:
    runner = await start()
    agent = {"fallback_models": ["openai:cheap"]}
    budget = {"cost_usd": Decimal("0.01"), "on_breach": "downgrade"}
    assert await runner.agents(attempt(budget, agent)) == "ok"
    assert [call.model for call in providers.calls] == ["cheap"]
    with pytest.raises(TerminalFailure) as caught:  # a budget that stops lets no other model through
        await runner.agents(attempt({**budget, "on_breach": "stop"}, agent))
    assert caught.value.category == "budget_exceeded"
    with pytest.raises(TerminalFailure) as caught:  # and there is no model below the last one
        await runner.agents(attempt(budget))
    assert caught.value.category == "budget_exceeded"
    assert len(providers.calls) == 1


async def test_a_breach_may_ask_people_whose_yes_gives_the_budget_once_more(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runner = await start()
    budget = {"calls": 1, "on_breach": "ask"}
    assert await runner.agents(attempt(budget)) == "ok"
    with pytest.raises(Deferred) as caught:
        await runner.agents(attempt(budget))
    deferral = caught.value.deferral
    assert deferral.reason == "approval"
    assert "once more?" in deferral.question.data["message"]
    yes, no = (Answer(deferral.ask, approved, 1.0) for approved in (True, False))
    with pytest.raises(TerminalFailure, match="more was not allowed"):
        await runner.agents(attempt(budget, answers=(no,)))
    assert await runner.agents(attempt(budget, answers=(yes,))) == "ok"
    with pytest.raises(Deferred) as again:  # the same yes from another step that had asked raises nothing more
        await runner.agents(attempt(budget, answers=(yes,)))
    assert again.value.deferral.ask != deferral.ask
    assert (await runner.spent("e"))[2] == len(providers.calls) == 2


async def test_a_breach_may_only_be_told_of(start: Any, attempt: Any, providers: FakeProviders) -> None:
    runner = await start()
    for _ in range(3):
        assert await runner.agents(attempt({"calls": 1, "on_breach": "alert"})) == "ok"
    assert [(fact.scope, fact.on_breach) for fact in runner.facts.breaches] == [("e", "alert")]
    assert (await runner.spent("e"))[2] == len(providers.calls) == 3


async def test_a_model_without_a_price_is_not_called_under_a_budget_in_dollars(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runner = await start()
    with pytest.raises(TerminalFailure, match="the price is unknown; openai:other has none"):
        await runner.agents(attempt({"cost_usd": Decimal(9)}, {"model": "openai:other"}))
    assert providers.calls == []
    assert await runner.agents(attempt({"tokens": 90_000}, {"model": "openai:other"})) == "ok"
    assert (await runner.spent("e"))[1] == runner_tokens(runner) > 0


@pytest.mark.parametrize(("script", "state"), [(refused(500), "released"), (hang_up(), "presumed")])
async def test_a_refused_call_costs_nothing_and_a_broken_one_what_it_may_have(
    start: Any, attempt: Any, providers: FakeProviders, script: Any, state: str
) -> None:
    runner = await start()
    providers.script = script
    with pytest.raises(RetryableFailure):
        await runner.agents(attempt({"cost_usd": Decimal(9)}))
    assert await runner.states() == [state]
    usd, _, calls = await runner.spent("e")
    assert (usd > 4, calls) == ((True, 1) if state == "presumed" else (False, 0))


async def test_a_provider_that_nobody_can_reach_is_not_paid(start: Any, attempt: Any) -> None:
    runner = await start("http://127.0.0.1:9/v1")
    with pytest.raises(RetryableFailure):
        await runner.agents(attempt({"cost_usd": Decimal(9)}))
    assert await runner.states() == ["released"]
    assert await runner.spent("e") == (0, 0, 0)


async def test_calls_that_no_budget_holds_for_are_not_written(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runner = await start()
    assert await runner.agents(attempt()) == "ok"
    assert await runner.states() == []


async def test_what_a_dead_runner_held_counts_as_used_when_the_same_call_is_made_again(
    start: Any, attempt: Any, providers: FakeProviders, fresh_database_url: str
) -> None:
    first, second = await start(), await start()
    release = threading.Event()
    providers.script = [reply("late", hold=release), TWENTY]
    dying = attempt({"cost_usd": Decimal(20)}, execution_id="x")
    running = asyncio.create_task(first.agents(dying))

    async def asked() -> int:
        return len(providers.calls)

    await eventually(asked, "the first call")
    again = attempt({"cost_usd": Decimal(20)}, execution_id="x", attempt=2, continues=True)
    assert await second.agents(again) == "ok"
    assert await second.states() == ["presumed", "settled"]
    usd, _, calls = await second.spent("e")
    assert calls == 2
    assert usd > Decimal("4.1")  # the most that the first may have cost
    running.cancel()
    release.set()
    await asyncio.gather(running, return_exceptions=True)
    assert await first.states() == ["presumed", "settled"]
    connection = await asyncpg.connect(fresh_database_url)
    assert await connection.fetchval("SELECT reserved_calls FROM spend.accounts WHERE scope = 'e'") == 0
    await connection.close()


async def test_a_reservation_that_nobody_takes_up_again_counts_as_used_in_the_end(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runner, other = await start(), await start()
    held = attempt({"calls": 5})
    held.call = 1
    most = Amount(Decimal(1), 100, 1)
    _, reservation = await runner.ledger.reserve(held, ("openai", "m"), runner.ledger.budgets(held), Wanted(most, most))
    assert reservation is not None
    expire = "UPDATE spend.entries SET expires_at = now() - interval '1 second'"
    await runner.pool.execute(expire)
    await runner.ledger.read()  # it lives, and its call is under way
    await other.ledger.read()
    assert await runner.states() == ["reserved"]
    await runner.ledger.stop()
    await runner.pool.execute(expire)
    await other.ledger.read()
    assert await runner.states() == ["presumed"]
    # It was only slow after all: what it used is what counts, and only once.
    for _ in range(2):
        await runner.ledger.settle(reservation, Amount(Decimal("0.25"), 30, 1))
    assert await runner.states() == ["settled"]
    assert await runner.spent("e") == (Decimal("0.25"), 30, 1)


async def test_without_its_database_a_call_under_a_budget_waits(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runner = await start()
    await runner.pool.close()
    with pytest.raises(Deferred, match="the database that holds the budgets, which does not answer"):
        await runner.agents(attempt({"calls": 1}))
    assert providers.calls == []
    assert await runner.agents(attempt()) == "ok"
