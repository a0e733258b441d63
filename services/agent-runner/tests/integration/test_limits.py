"""Limits on a real Postgres, with several runners' worth of callers.

A "minute" is a few seconds here where it has to pass, and an hour where nothing may depend on how fast the machine is.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from millrace_agent_runner.adapters.database import open_database
from millrace_agent_runner.adapters.limits import RETURN_GRACE_S, Limits
from millrace_agent_runner.domain.limits import Grant, Limit, Wait
from millrace_agent_runner.errors import LimitsUnavailable

DEADLINE_S = 60.0
MINUTE_S = 3.0
HOUR_S = 3_600.0
MODEL = ("groq", "llama")
TIGHT = Limit("groq", "llama", requests_per_minute=60, tokens_per_minute=6_000)


@pytest.fixture
async def runner(fresh_database_url: str) -> AsyncIterator[Callable[..., Any]]:
    """Opens what one runner has: a pool of its own, and the limits in it."""
    opened: list[Any] = []

    async def open_limits(*defaults: Limit, minute_s: float = HOUR_S) -> Limits:
        database = open_database(fresh_database_url, 4)
        pool = await database.__aenter__()
        assert pool is not None
        limits = Limits(pool, defaults, minute_s)
        opened.append((database, limits))
        await limits.start()
        return limits

    yield open_limits
    for database, limits in reversed(opened):
        await limits.stop()
        await database.__aexit__(None, None, None)


@pytest.fixture
async def database(runner: Any, fresh_database_url: str) -> AsyncIterator[Any]:
    await runner()
    connection = await asyncpg.connect(fresh_database_url)
    yield connection
    await connection.close()


def ask(limits: Limits, who: str, tokens: int, workspace: str = "default") -> Any:
    return limits.reserve(who, MODEL, limits.demands(workspace, *MODEL, tokens))


async def test_runners_take_no_more_than_the_limit_in_any_minute(runner: Any) -> None:
    runners = [await runner(TIGHT, minute_s=MINUTE_S) for _ in range(4)]
    granted: list[tuple[float, int]] = []

    async def call(number: int) -> None:
        limits, tokens = runners[number % 4], 50 + number % 7 * 10
        while isinstance(found := await ask(limits, f"call {number}", tokens + 100), Wait):  # noqa: ASYNC110
            await asyncio.sleep(min(found.wait_s, 1.0))
        limits.settle(found, tokens)
        granted.append((found.taken_at, tokens))

    async with asyncio.timeout(DEADLINE_S * 3):
        await asyncio.gather(*(call(number) for number in range(150)))
    granted.sort()
    begins = [at for at, _ in granted]
    assert len(granted) == 150
    for begin in begins:
        in_minute = [tokens for at, tokens in granted if begin <= at < begin + MINUTE_S]
        assert len(in_minute) <= 60
        assert sum(in_minute) <= 6_000


async def test_of_calls_that_come_together_none_is_let_in_twice_or_too_many(runner: Any) -> None:
    runners = [await runner(Limit("groq", requests_per_minute=100)) for _ in range(4)]
    asked = await asyncio.gather(*(ask(runners[number % 4], f"c{number}", 10) for number in range(80)))
    granted = [found for found in asked if isinstance(found, Grant)]
    assert len(granted) == 10  # the burst: a tenth of a minute, at the pace, and the call that ends it
    waits = sorted(found.wait_s for found in asked if isinstance(found, Wait))
    assert waits == sorted(set(waits))  # each has a turn of its own
    assert waits[-1] == pytest.approx(70 * HOUR_S / 96, rel=0.05)


async def test_whoever_came_first_goes_first_and_finds_its_place_again(runner: Any, database: Any) -> None:
    first, second = await runner(TIGHT), await runner(TIGHT)
    assert isinstance(await ask(first, "full", 6_000), Grant)
    early, late = await ask(first, "early", 3_000), await ask(second, "late", 100)
    assert isinstance(early, Wait)
    assert isinstance(late, Wait)
    again = await ask(second, "early", 3_000)
    assert isinstance(again, Wait)
    assert again.wait_s == pytest.approx(early.wait_s, abs=DEADLINE_S)
    assert early.wait_s < late.wait_s
    assert early.return_s < early.wait_s
    assert early.reason == "3,000 of 6,000 tokens/min of groq:llama"
    order = "SELECT conversation FROM spend.waiting ORDER BY place"
    assert [row["conversation"] for row in await database.fetch(order)] == ["early", "late"]
    # The minute is over: the first takes its turn although the other asks first, for it has to leave room.
    await database.execute("UPDATE spend.buckets SET used = '{}', paced_to = 0 WHERE bucket LIKE 'tokens%'")
    await database.execute("UPDATE spend.waiting SET units = 5950 WHERE conversation = 'early'")
    assert isinstance(await ask(second, "late", 100), Wait)
    assert isinstance(await ask(first, "early", 5_950), Grant)
    assert [row["conversation"] for row in await database.fetch(order)] == ["late"]


async def test_whoever_does_not_come_back_holds_up_nobody(runner: Any, database: Any) -> None:
    limits = await runner(Limit("groq", requests_per_minute=10))
    while isinstance(await ask(limits, "x", 1), Grant):
        pass
    await database.execute("DELETE FROM spend.waiting")
    gone, waiting = await ask(limits, "gone", 1), await ask(limits, "waiting", 1)
    await database.execute(
        "UPDATE spend.waiting SET returns_at = returns_at - $1::float8 WHERE conversation = 'gone'",
        gone.return_s + RETURN_GRACE_S + 1,
    )
    nearer = await ask(limits, "waiting", 1)
    assert nearer.wait_s <= waiting.wait_s - HOUR_S / 10 + DEADLINE_S
    await database.execute("UPDATE spend.waiting SET returns_at = 0 WHERE conversation = 'gone'")
    await limits.read()
    assert await database.fetchval("SELECT count(*) FROM spend.waiting WHERE conversation = 'gone'") == 0


async def test_a_workspace_that_waits_for_its_own_limit_holds_up_no_other(runner: Any) -> None:
    shared, own = Limit("groq", tokens_per_minute=60_000), Limit("groq", workspace="greedy", tokens_per_minute=1_000)
    limits = await runner(shared, own)
    asked = [await ask(limits, f"greedy {number}", 1_000, "greedy") for number in range(20)]
    assert [isinstance(found, Grant) for found in asked] == [True] + [False] * 19
    assert "in workspace greedy" in asked[-1].reason
    assert isinstance(await ask(limits, "modest", 1_000, "modest"), Grant)


async def test_a_call_takes_from_all_of_its_limits_or_from_none(runner: Any, database: Any) -> None:
    wide, narrow = Limit("groq", tokens_per_minute=60_000), Limit("groq", "llama", requests_per_minute=1)
    limits = await runner(wide, narrow)
    assert isinstance(await ask(limits, "one", 100), Grant)
    taken = "SELECT sum(units) FROM spend.buckets, unnest(used) AS units WHERE bucket LIKE 'tokens%'"
    assert await database.fetchval(taken) == 100
    assert isinstance(await ask(limits, "two", 100), Wait)
    assert await database.fetchval(taken) == 100


async def test_a_pause_that_a_provider_asks_for_holds_for_every_runner(runner: Any, database: Any) -> None:
    first, second = await runner(TIGHT), await runner(TIGHT)
    first.block(*MODEL, HOUR_S)
    assert first.pause_s(*MODEL) > HOUR_S / 2
    deadline = time.monotonic() + DEADLINE_S
    while not await database.fetchval("SELECT count(*) FROM spend.blocks"):
        assert time.monotonic() < deadline
    found = await ask(second, "x", 1)
    assert isinstance(found, Wait)
    assert found.wait_s == pytest.approx(HOUR_S, abs=DEADLINE_S)
    assert found.reason == "a pause that groq asked for"
    await second.read()
    assert second.pause_s(*MODEL) > HOUR_S / 2
    assert second.pause_s("groq", "other") == 0


async def test_what_a_call_used_takes_the_place_of_what_was_thought_and_is_learned(runner: Any, database: Any) -> None:
    limits = await runner(TIGHT)
    grant = await ask(limits, "x", 500)
    limits.settle(grant, 80)
    limits.learn(*MODEL, counted=100, input_tokens=200, output_tokens=56)
    await limits.stop()
    taken = "SELECT sum(units) FROM spend.buckets, unnest(used) AS units WHERE bucket LIKE 'tokens%'"
    assert await database.fetchval(taken) == 80
    other = await runner(TIGHT)
    assert other.learned(*MODEL).estimate(100) == limits.learned(*MODEL).estimate(100)
    assert other.learned(*MODEL).input_ratio > 1


async def test_limits_of_the_database_hold_once_they_are_read(runner: Any, database: Any) -> None:
    limits = await runner(TIGHT)
    await database.execute(
        "INSERT INTO spend.rate_limits (provider, model, tokens_per_minute) VALUES ('groq', 'llama', 7)"
    )
    await limits.read()
    assert [(demand.kind, demand.per_minute) for demand in limits.demands("w", *MODEL, 5)] == [("tokens", 7)]
    assert limits.demands("w", "openai", "gpt", 5) == []


async def test_a_database_that_went_away_is_told_from_a_defect(runner: Any, database: Any) -> None:
    limits = await runner(TIGHT)
    await database.execute("ALTER TABLE spend.buckets RENAME TO gone")
    with pytest.raises(asyncpg.UndefinedTableError):
        await ask(limits, "x", 1)
    await limits._pool.close()
    with pytest.raises(LimitsUnavailable, match="does not answer"):
        await ask(limits, "x", 1)


async def test_buckets_that_were_removed_are_made_anew(runner: Any, database: Any) -> None:
    limits = await runner(TIGHT)
    assert isinstance(await ask(limits, "x", 1), Grant)
    await database.execute("DELETE FROM spend.buckets")
    with pytest.raises(LimitsUnavailable, match="were removed"):
        await ask(limits, "y", 1)
    assert isinstance(await ask(limits, "y", 1), Grant)
