"""Agent steps under rate limits: a real provider's protocol, and limits in a real Postgres."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from millrace_agent_runner.adapters.database import open_database
from millrace_agent_runner.adapters.limits import Limits
from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.domain.limits import Limit
from millrace_agent_runner.errors import Deferred, RetryableFailure, TerminalFailure
from millrace_agent_runner.executors.agent.executor import AgentExecutor
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads
from millrace_shared.messages import LlmCall, TokenDelta
from millrace_shared.testing.providers import FakeProviders, calls, hang_up, refused, reply

MINUTE_S = 3_600.0
"""Long, so that nothing here depends on how fast the machine is."""
TAKEN = "SELECT COALESCE(sum(units), 0)::int FROM spend.buckets, unnest(used) AS units WHERE bucket LIKE $1"


class Recorded:
    def __init__(self) -> None:
        self.calls: list[LlmCall] = []

    def llm_call(self, fact: LlmCall) -> None:
        self.calls.append(fact)

    def token_delta(self, fact: TokenDelta) -> None:
        pass


class Runner:
    """The agents of one runner, and its limits."""

    def __init__(self, agents: AgentExecutor, limits: Limits, pool: Any, facts: Recorded) -> None:
        self.agents = agents
        self.limits = limits
        self.pool = pool
        self.facts = facts

    async def taken(self, kind: str) -> int:
        """Wait for what is being written, and return what is taken of a kind of limit."""
        while self.limits._tasks:
            await next(iter(self.limits._tasks))
        count: int = await self.pool.fetchval(TAKEN, f"{kind} %")
        return count


@pytest.fixture
async def start(fresh_database_url: str, providers: FakeProviders, journals: Any) -> AsyncIterator[Callable[..., Any]]:
    opened: list[tuple[Any, Runner, HttpExecutor]] = []

    async def start_runner(*defaults: Limit, minute_s: float = MINUTE_S) -> Runner:
        database = open_database(fresh_database_url, 4)
        pool = await database.__aenter__()
        assert pool is not None
        limits = Limits(pool, defaults, minute_s)
        await limits.start()
        facts, http = Recorded(), HttpExecutor(Allowed())
        python = PythonExecutor(Functions(()), Threads(2))
        agents = AgentExecutor(facts, journals, http, python, {}, providers.openai_url, limits)
        opened.append((database, Runner(agents, limits, pool, facts), http))
        return opened[-1][1]

    yield start_runner
    for database, runner, http in opened:
        await runner.agents.close()
        await http.close()
        await runner.limits.stop()
        await database.__aexit__(None, None, None)


@pytest.fixture
def attempt(step_factory: Any, attempt_factory: Any) -> Callable[..., Any]:
    def make(prompt: str = "Why is the sky blue?", step: Any = None, **agent: Any) -> Any:
        spec = {"agent": {"name": "a", "model": "openai:m", **agent}}
        return attempt_factory(step or step_factory("agent", spec, {"prompt": prompt}))

    return make


async def test_what_can_never_fit_is_never_sent(start: Any, attempt: Any, providers: FakeProviders) -> None:
    runner = await start(Limit("openai", tokens_per_minute=6_000))
    with pytest.raises(TerminalFailure, match=r"of input are more than the 6,000 tokens/min of openai") as caught:
        await runner.agents(attempt("word " * 104_328))
    assert caught.value.category == "llm_context_too_large"
    assert providers.calls == []
    assert runner.facts.calls == []


async def test_a_prompt_that_fits_alone_is_sent_however_long_its_answer_may_be(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runner = await start(Limit("openai", tokens_per_minute=200))
    assert await runner.agents(attempt()) == "ok"
    assert len(providers.calls) == 1


async def test_a_call_that_must_wait_for_long_gives_its_slot_back(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runner = await start(Limit("openai", "m", requests_per_minute=1))
    assert await runner.agents(attempt()) == "ok"
    with pytest.raises(Deferred) as caught:
        await runner.agents(attempt())
    deferral = caught.value.deferral
    assert deferral.reason == "tokens"
    assert deferral.detail.startswith("one of 1 requests/min of openai:m, about 3,")
    assert time.time() < deferral.until < time.time() + MINUTE_S
    assert len(providers.calls) == 1
    assert len(runner.facts.calls) == 1


async def test_a_call_whose_turn_is_near_waits_in_its_place(start: Any, attempt: Any, providers: FakeProviders) -> None:
    runner = await start(Limit("openai", "m", requests_per_minute=1), minute_s=0.5)
    assert [await runner.agents(attempt()) for _ in range(3)] == ["ok"] * 3
    first, second, third = (call.at for call in providers.calls)
    assert second - first >= 0.5
    assert third - second >= 0.5


async def test_an_attempt_that_goes_on_takes_for_new_calls_alone(
    start: Any, attempt: Any, step_factory: Any, providers: FakeProviders
) -> None:
    providers.script = [reply(None, calls("math.fib", n=5)), reply("five")]
    runner = await start(Limit("openai", "m", requests_per_minute=1))
    step = step_factory(
        "agent",
        {"agent": {"model": "openai:m", "tools": [{"name": "math.fib", "config": {"call": "fib"}}]}},
        {"prompt": "x"},
    )
    with pytest.raises(Deferred):
        await runner.agents(attempt(step=step))
    assert len(providers.calls) == 1
    place = await runner.pool.fetchval("SELECT conversation FROM spend.waiting")
    assert place == f"{step.execution_id} process None 0"
    await runner.pool.execute("UPDATE spend.buckets SET used = '{}', paced_to = 0")
    again = step_factory(
        "agent",
        {"agent": {"model": "openai:m", "tools": [{"name": "math.fib", "config": {"call": "fib"}}]}},
        {"prompt": "x"},
        execution_id=step.execution_id,
        attempt=2,
    )
    going_on = attempt(step=again)
    going_on.resumes = True
    assert await runner.agents(going_on) == "five"
    assert len(providers.calls) == 2
    assert await runner.taken("requests") == 1
    assert await runner.pool.fetchval("SELECT count(*) FROM spend.waiting") == 0


@pytest.mark.parametrize(
    "output", [None, {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}]
)
async def test_what_a_call_used_is_what_is_taken_in_the_end(
    start: Any, attempt: Any, providers: FakeProviders, output: Any
) -> None:
    providers.script = reply(None, calls("final_result", a=1)) if output else reply("ok")
    runner = await start(Limit("openai", tokens_per_minute=100_000, requests_per_minute=1_000))
    await runner.agents(attempt("word " * 500, **({"output": output} if output else {})))
    [call] = providers.calls
    assert await runner.taken("tokens") == call.input_tokens + call.output_tokens
    assert await runner.taken("requests") == 1
    assert runner.limits.learned("openai", "m").output_tokens < 256


async def test_a_pause_that_the_provider_asks_for_holds_for_all(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    providers.script = refused(429, retry_after_s=600)
    first, second = await start(), await start(Limit("openai", requests_per_minute=100))
    with pytest.raises(RetryableFailure) as caught:
        await first.agents(attempt())
    assert caught.value.category == "llm_rate_limit"
    assert await first.taken("tokens") == 0
    with pytest.raises(Deferred, match="a pause that openai asked for"):  # it knows by itself
        await first.agents(attempt())
    with pytest.raises(Deferred, match="a pause that openai asked for"):  # it is told by the database
        await second.agents(attempt())
    assert len(providers.calls) == 1


async def test_a_refused_call_used_no_tokens_and_a_broken_one_what_was_thought(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runner = await start(Limit("openai", tokens_per_minute=100_000))
    providers.script = refused(500)
    with pytest.raises(RetryableFailure):
        await runner.agents(attempt())
    assert await runner.taken("tokens") == 0
    providers.script = hang_up()
    with pytest.raises(RetryableFailure):
        await runner.agents(attempt())
    assert await runner.taken("tokens") > 256


async def test_without_its_database_a_limited_model_is_not_called(
    start: Any, attempt: Any, providers: FakeProviders
) -> None:
    runner = await start(Limit("openai", "m", requests_per_minute=100))
    await runner.pool.close()
    with pytest.raises(Deferred, match="the database that holds the rate limits"):
        await runner.agents(attempt())
    assert providers.calls == []
    assert await runner.agents(attempt(model="openai:unlimited")) == "ok"


async def test_two_runners_never_see_a_429_of_a_provider_with_the_same_limits(
    start: Any, attempt: Any, providers: FakeProviders, fresh_database_url: str
) -> None:
    connection = await asyncpg.connect(fresh_database_url)
    runners = [await start(Limit("openai", requests_per_minute=3)) for _ in range(2)]
    outcomes: list[str] = []
    for number in range(6):
        try:
            outcomes.append(await runners[number % 2].agents(attempt()))
        except Deferred:
            outcomes.append("later")
    assert outcomes.count("ok") == len(providers.calls) <= 3
    assert await connection.fetchval("SELECT count(*) FROM spend.waiting") == outcomes.count("later") >= 3
    await connection.close()
