import asyncpg
import pytest

from millrace_agent_runner.adapters.database import open_database


async def test_runners_that_start_at_once_share_one_schema(fresh_database_url: str) -> None:
    async with open_database(fresh_database_url, 2) as first, open_database(fresh_database_url, 2) as second:
        assert first is not None
        assert second is not None
        await first.execute(
            "INSERT INTO spend.rate_limits (provider, tokens_per_minute) VALUES ($1, $2)", "groq", 6_000
        )
        assert await second.fetchval("SELECT tokens_per_minute FROM spend.rate_limits WHERE model = '*'") == 6_000
        with pytest.raises(asyncpg.CheckViolationError):  # a limit that limits nothing is a mistake
            await first.execute("INSERT INTO spend.rate_limits (provider) VALUES ('openai')")


async def test_without_a_database_there_is_none_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    async with open_database(None, 2) as pool:
        assert pool is None
    assert [record.message.split(":")[0] for record in caplog.records] == ["no MILLRACE_DATABASE_URL"]


async def test_a_runner_with_a_database_is_ready_when_it_answers(
    bus: object, start_runner: object, http_get: object, fresh_database_url: str
) -> None:
    runner = await start_runner(MILLRACE_DATABASE_URL=fresh_database_url)  # type: ignore[operator]
    status, body = await http_get(await runner.port(), "/readyz")  # type: ignore[operator]
    assert (status, '"postgres":"ok"' in body) == (200, True)


async def test_limits_that_cannot_be_shared_are_said_not_to_hold(bus: object, start_runner: object) -> None:
    limits = '[{"provider": "groq", "requests_per_minute": 30}]'
    runner = await start_runner(MILLRACE_RATE_LIMITS=limits)  # type: ignore[operator]
    await runner.line("no MILLRACE_DATABASE_URL: the rate limits")
    await runner.line("MILLRACE_RATE_LIMITS do not hold")
    await runner.line("is ready")
