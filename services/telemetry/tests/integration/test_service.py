"""The service in this process, against real servers: it follows, recovers, and tells how it is."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from random import Random
from typing import Any

import msgspec

from millrace.embedded import BackgroundStack
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.ids import new_id
from millrace_shared.messages import (
    ErrorInfo,
    LlmCall,
    StepStarted,
    TokenDelta,
    Transition,
)
from millrace_shared.testing.logs import interleaved, random_log, simple_log
from millrace_shared.testing.services import http_get
from millrace_telemetry.bootstrap import serve
from millrace_telemetry.settings import TelemetrySettings

Append = Callable[[list[Transition]], Awaitable[int]]
Eventually = Callable[[Callable[[], Awaitable[bool]], str], Awaitable[None]]


async def test_what_is_appended_is_projected(
    settings: TelemetrySettings, tables: Any, append: Append, metric: Any
) -> None:
    random = Random(1)
    log = interleaved(random, [random_log(random) for _ in range(30)])
    await append(log[: len(log) // 2])  # before the service starts
    async with serve(settings):
        last = await append(log[len(log) // 2 :])
        await tables.reach(last)
        assert metric("sequence") == last
        assert metric("lag_messages") == 0
    await tables.assert_show(log)


async def test_a_service_that_starts_again_goes_on_where_it_was(
    settings: TelemetrySettings, tables: Any, append: Append
) -> None:
    random = Random(2)
    log = interleaved(random, [random_log(random) for _ in range(20)])
    position = 0
    while position < len(log):
        part = log[position : position + 25]
        async with serve(settings):
            await tables.reach(await append(part))
        position += len(part)
    await tables.assert_show(log)


async def test_two_services_write_once_and_the_second_takes_over(
    settings: TelemetrySettings, tables: Any, append: Append
) -> None:
    random = Random(3)
    logs = [simple_log(new_id()) for _ in range(40)]
    log = interleaved(random, logs)
    async with AsyncExitStack() as first:
        await first.enter_async_context(serve(settings))
        async with serve(settings) as standby:
            await tables.reach(await append(log[:80]))
            assert (await http_get(standby.port, "/readyz"))[0] == 200
            await first.aclose()
            await tables.reach(await append(log[80:]))
    await tables.assert_show(log)


async def test_a_lost_database_connection_is_made_again(
    settings: TelemetrySettings, tables: Any, append: Append, eventually: Eventually
) -> None:
    log = [transition for _ in range(20) for transition in simple_log(new_id())]
    async with serve(settings) as ops:
        await tables.reach(await append(log[:40]))
        ended = await tables.pool.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'millrace-telemetry%' AND datname = current_database()"
        )
        assert len(ended) == 2
        await tables.reach(await append(log[40:]))

        async def ready() -> bool:
            return (await http_get(ops.port, "/readyz"))[0] == 200

        await eventually(ready, "ready again")
    await tables.assert_show(log)


async def test_an_idle_service_notices_that_its_connection_is_gone(
    settings: TelemetrySettings, tables: Any, append: Append, eventually: Eventually
) -> None:
    async with serve(settings):
        await tables.reach(await append(simple_log(new_id())))

        async def connections() -> set[int]:
            records = await tables.pool.fetch(
                "SELECT pid FROM pg_stat_activity "
                "WHERE application_name LIKE 'millrace-telemetry%' AND datname = current_database()"
            )
            return {record[0] for record in records}

        before = await connections()
        await tables.pool.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", list(before))

        async def replaced() -> bool:
            now = await connections()
            return len(now) == len(before) and not now & before

        await eventually(replaced, "new connections, without any message")


async def test_a_server_restart_loses_nothing(
    settings: TelemetrySettings,
    tables: Any,
    append: Append,
    fresh_nats: BackgroundStack,
    eventually: Eventually,
    bus: Connection,
) -> None:
    log = [transition for _ in range(20) for transition in simple_log(new_id())]
    async with serve(settings):
        await tables.reach(await append(log[:40]))
        await asyncio.to_thread(fresh_nats.kill, "nats")
        await asyncio.to_thread(fresh_nats.wait_ready, "nats")

        async def connected() -> bool:
            return bool(bus.is_connected)

        await eventually(connected, "connected again")
        await tables.reach(await append(log[40:]))
    await tables.assert_show(log)


async def test_facts_are_kept_and_streamed_tokens_are_not(
    settings: TelemetrySettings, tables: Any, append: Append, publisher: Publisher, dead_letters: Any
) -> None:
    log = simple_log(new_id(), steps=1)
    execution_id = log[0].execution_id
    failed = ErrorInfo("overloaded", "rate_limit", "later\x00")
    call = LlmCall(
        execution_id, "default", "wf", "step0", 1, 1, "groq", "llama", 1_790_000_000.5, 0.25, 10, 5,
        cost_usd=Decimal("0.000125"), time_to_first_token_s=0.1, finish_reason="stop",
    )  # fmt: skip
    again = msgspec.structs.replace(call, at=call.at + 60.0)  # the runner was lost, and another did it again
    broken = msgspec.structs.replace(call, sequence=2, cost_usd=None, error=failed, item=3)

    async def tell(name: str, payload: bytes) -> int:
        return (await publisher.publish(Outgoing(subjects.fact(execution_id, name), payload))).seq

    async with serve(settings):
        for fact in (call, call, again, broken):
            await tell("llm_call", encode(fact))
        await tell("llm_call", b"poison")
        await tell("token_delta", encode(TokenDelta(execution_id, "step0", 1, 1, "x", 1.0)))
        last = await tell("step_started", encode(StepStarted(execution_id, "step0", 1, 1_790_000_000.0, None, "r1")))
        await tables.reach(last, "TELEMETRY")
        calls = await tables.pool.fetch("SELECT * FROM telemetry.llm_calls ORDER BY sequence, at")
        assert [(row["sequence"], row["item"], row["cost_usd"]) for row in calls] == [
            (1, -1, Decimal("0.000125")),
            (1, -1, Decimal("0.000125")),
            (2, 3, None),
        ]
        assert (calls[2]["error_category"], calls[2]["error"]["message"]) == ("rate_limit", "later�")
        assert [letter.payload for letter in await dead_letters("TELEMETRY")] == [b"poison"]

        # The start came before the log did: both orders show the same.
        assert await tables.pool.fetch("SELECT * FROM telemetry.steps_now") == []
        await tables.reach(await append(log[:1]))
        now = await tables.pool.fetchrow("SELECT * FROM telemetry.steps_now")
        assert (now["status"], now["runner"], now["started_at"].timestamp()) == ("running", "r1", 1_790_000_000.0)
        await tables.reach(await append(log[1:]))
        now = await tables.pool.fetchrow("SELECT * FROM telemetry.steps_now")
        assert (now["status"], now["runner"]) == ("completed", "runner-1")


async def test_operations_endpoint(settings: TelemetrySettings, tables: Any, append: Append) -> None:
    async with serve(settings) as ops:
        await tables.reach(await append(simple_log(new_id())))
        assert (await http_get(ops.port, "/healthz"))[0] == 200
        status, body = await http_get(ops.port, "/readyz")
        assert (status, msgspec.json.decode(body)["checks"]) == (200, {"nats": "ok", "postgres": "ok"})
        status, body = await http_get(ops.port, "/metrics")
        assert 'millrace_projection_leading{stream="EVENTS"} 1.0' in body
