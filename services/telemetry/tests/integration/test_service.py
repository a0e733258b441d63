"""The service in this process, against real servers: it follows, recovers, buries poison, and rebuilds."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from decimal import Decimal
from random import Random
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY

from millrace.embedded import BackgroundStack
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import Stored, read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.ids import new_id
from millrace_shared.messages import (
    DeadLetter,
    ErrorInfo,
    ExecutionFinished,
    LlmCall,
    StepCompleted,
    StepStarted,
    TokenDelta,
    Transition,
)
from millrace_shared.testing.logs import interleaved, random_log, simple_log
from millrace_telemetry.adapters.follower import Message
from millrace_telemetry.adapters.graveyard import Graveyard
from millrace_telemetry.bootstrap import serve
from millrace_telemetry.rebuild import rebuild
from millrace_telemetry.settings import TelemetrySettings

Append = Callable[[list[Transition]], Awaitable[int]]
Eventually = Callable[[Callable[[], Awaitable[bool]], str], Awaitable[None]]


def metric(name: str, stream: str = "EVENTS") -> float:
    return REGISTRY.get_sample_value(f"millrace_projection_{name}", {"stream": stream}) or 0.0


async def get(port: int, path: str) -> tuple[int, str]:
    """An HTTP GET: status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split(" ")[1]), body


async def expire(bus: Connection, logs: Iterable[list[Transition]]) -> None:
    """Remove whole logs, as retention does."""
    for one in logs:
        await bus.jetstream_api("STREAM.PURGE.EVENTS", {"filter": subjects.log(one[0].execution_id)})


async def dead_letters(bus: Connection, stream: str) -> list[DeadLetter]:
    found = read_subject(bus, "DEAD", subjects.dead(stream))
    return [msgspec.json.decode(stored.payload, type=DeadLetter) async for stored in found]


async def test_what_is_appended_is_projected(settings: TelemetrySettings, tables: Any, append: Append) -> None:
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
            assert (await get(standby.port, "/readyz"))[0] == 200
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
            return (await get(ops.port, "/readyz"))[0] == 200

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


async def test_poison_is_buried_with_its_reason_and_passed_over(
    settings: TelemetrySettings, tables: Any, append: Append, publisher: Publisher, bus: Connection
) -> None:
    good, other = simple_log(new_id()), simple_log(new_id())
    forged = Transition(1, new_id(), 1, 1.0, ())
    too_large = Transition(1, new_id(), 1, 1.0, (StepCompleted("a", 2**40),))
    before = metric("dead_total")
    await append(good[:2])
    await publisher.publish(Outgoing(subjects.log(other[0].execution_id), b"\xff not json"))
    await publisher.publish(Outgoing(subjects.log(other[0].execution_id), encode(forged)))
    await append([too_large])
    last = await append([*good[2:], *other])
    async with serve(settings):
        await tables.reach(last)
    await tables.assert_show([*good, *other])
    letters = await dead_letters(bus, "EVENTS")
    assert [letter.sequence for letter in letters] == [3, 4, 5]
    assert letters[0].payload == b"\xff not json"
    assert "stands on" in letters[1].reason
    assert "Postgres refuses a value" in letters[2].reason
    assert {letter.service for letter in letters} == {"telemetry"}
    assert metric("dead_total") - before == 3
    await rebuild(settings)
    await tables.assert_show([*good, *other])
    assert await dead_letters(bus, "EVENTS") == letters
    assert metric("dead_total") - before == 3


async def test_a_stream_that_was_replaced_has_poison_of_its_own(bus: Connection, publisher: Publisher) -> None:
    graveyard = Graveyard(bus, publisher, "EVENTS")
    subject = subjects.log(new_id())
    buried = [await graveyard.bury(Message(7, subject, payload), "no") for payload in (b"a", b"a", b"b", b"b")]
    assert buried == [True, False, True, False]
    assert [letter.payload for letter in await dead_letters(bus, "EVENTS")] == [b"a", b"b"]


async def test_a_log_of_a_later_version_is_waited_for_and_not_passed_over(
    settings: TelemetrySettings,
    tables: Any,
    append: Append,
    publisher: Publisher,
    bus: Connection,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = simple_log(new_id())
    await append(log[:2])
    await publisher.publish(Outgoing(subjects.log(new_id()), b'{"v":99}'))
    await append(log[2:])

    async def said_often() -> bool:
        return caplog.text.count("log version 99 is newer") > 1

    async with serve(settings):
        await eventually(said_often, "the reason is said, and it is tried again")
    assert await dead_letters(bus, "EVENTS") == []


async def test_messages_that_the_stream_holds_no_more_are_counted_and_passed_over(
    settings: TelemetrySettings, tables: Any, append: Append, bus: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    logs = [simple_log(new_id()) for _ in range(3)]
    before = metric("missing_total")
    await append([*logs[0], *logs[1]])
    last = await append(logs[2])
    config = (await bus.jetstream_api("STREAM.INFO.EVENTS"))["config"]
    await bus.jetstream_api("STREAM.UPDATE.EVENTS", {**config, "max_msgs": len(logs[1]) + len(logs[2])})
    async with serve(settings):
        await tables.reach(last)
    await tables.assert_show([*logs[1], *logs[2]])
    assert metric("missing_total") - before == 4
    assert (
        "EVENTS does not hold its messages 1 to 4 any more: they expired with their logs, or were lost" in caplog.text
    )


async def test_many_expired_logs_are_told_of_once(
    settings: TelemetrySettings, tables: Any, append: Append, bus: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    logs = [simple_log(new_id()) for _ in range(9)]
    last = await append(interleaved(Random(5), logs[:8]) + logs[8])
    await expire(bus, logs[:4])
    before = metric("missing_total")
    async with serve(settings):
        await tables.reach(last)
    assert metric("missing_total") - before == sum(map(len, logs[:4]))
    assert caplog.text.count("does not hold its messages") == 1


async def test_another_stream_than_the_projected_one_is_refused(
    settings: TelemetrySettings, tables: Any, append: Append, eventually: Eventually
) -> None:
    await append(simple_log(new_id()))
    await tables.pool.execute("UPDATE telemetry.offsets SET sequence = 1000 WHERE stream = 'EVENTS'")
    async with serve(settings) as ops:

        async def refused() -> bool:
            status, body = await get(ops.port, "/readyz")
            return status == 503 and "EVENTS ends at 4, but is projected up to 1000" in body

        await eventually(refused, "not ready, because the stream is shorter than the offset")
        await tables.pool.execute(
            "UPDATE telemetry.offsets SET sequence = 2, subject = 'ev.0.x' WHERE stream = 'EVENTS'"
        )

        async def other() -> bool:
            return "is not the one that was projected" in (await get(ops.port, "/readyz"))[1]

        await eventually(other, "not ready, because another message is there")
    assert await tables.rows("executions") == []


async def test_facts_are_kept_and_streamed_tokens_are_not(
    settings: TelemetrySettings, tables: Any, append: Append, publisher: Publisher, bus: Connection
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
        assert [letter.payload for letter in await dead_letters(bus, "TELEMETRY")] == [b"poison"]

        # The start came before the log did: both orders show the same.
        assert await tables.pool.fetch("SELECT * FROM telemetry.steps_now") == []
        await tables.reach(await append(log[:1]))
        now = await tables.pool.fetchrow("SELECT * FROM telemetry.steps_now")
        assert (now["status"], now["runner"], now["started_at"].timestamp()) == ("running", "r1", 1_790_000_000.0)
        await tables.reach(await append(log[1:]))
        now = await tables.pool.fetchrow("SELECT * FROM telemetry.steps_now")
        assert (now["status"], now["runner"]) == ("completed", "runner-1")


@pytest.mark.parametrize("service_runs", [False, True])
async def test_rebuilt_tables_are_identical(
    settings: TelemetrySettings, tables: Any, append: Append, publisher: Publisher, *, service_runs: bool
) -> None:
    random = Random(4)
    log = interleaved(random, [random_log(random) for _ in range(40)])
    execution_id = log[0].execution_id
    started = StepStarted(execution_id, "step-0", 1, 1.0, None, "r")
    fact = (await publisher.publish(Outgoing(subjects.fact(execution_id, "step_started"), encode(started)))).seq
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve(settings))
        last = await append(log)
        await tables.reach(last)
        await tables.reach(fact, "TELEMETRY")
        before = await tables.every_row()
        starts = await tables.pool.fetch("SELECT * FROM telemetry.attempt_starts")
        if not service_runs:
            await stack.aclose()
        await tables.pool.execute("UPDATE telemetry.executions SET final_status = 'nonsense', tokens_used = -1")
        await tables.pool.execute("DELETE FROM telemetry.steps WHERE item = -1")
        assert await rebuild(settings) == {"EVENTS": last, "TELEMETRY": fact}
        assert await tables.every_row() == before
        assert await tables.pool.fetch("SELECT * FROM telemetry.attempt_starts") == starts
    await tables.assert_show(log)


def is_ended(log: list[Transition]) -> bool:
    return isinstance(log[-1].events[-1], ExecutionFinished)


@pytest.mark.parametrize("service_runs", [False, True])
async def test_what_a_rebuild_cannot_read_any_more_stays_as_it_is(
    settings: TelemetrySettings,
    tables: Any,
    append: Append,
    publisher: Publisher,
    bus: Connection,
    *,
    service_runs: bool,
) -> None:
    random = Random(6)
    logs = [random_log(random) for _ in range(30)] + [simple_log(new_id()) for _ in range(30)]
    log = interleaved(random, logs)
    expired = [one for one in logs if is_ended(one)][::2]
    assert len(expired) >= 20
    started = StepStarted(expired[0][0].execution_id, "step-0", 1, 1.0, None, "r")
    told = Outgoing(subjects.fact(started.execution_id, "step_started"), encode(started))
    fact = (await publisher.publish(told)).seq
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve(settings))
        await tables.reach(await append(log))
        await tables.reach(fact, "TELEMETRY")
        before = await tables.every_row()
        await expire(bus, expired)
        await bus.jetstream_api("STREAM.PURGE.TELEMETRY")  # facts are kept for days only
        if not service_runs:
            await stack.aclose()
        for _ in range(2):
            await tables.pool.execute(
                "UPDATE telemetry.executions SET execution_number = -1, tokens_used = -1 WHERE NOT (id = ANY($1))",
                [one[0].execution_id for one in expired],
            )
            await rebuild(settings)
            assert await tables.every_row() == before
        assert len(await tables.pool.fetch("SELECT * FROM telemetry.attempt_starts")) == 1
        # Who comes next has the next number, although numbers in between are those of kept rows.
        log += simple_log(new_id())
        last = await append(log[-4:])
        if not service_runs:
            await stack.enter_async_context(serve(settings))
        await tables.reach(last)
    await tables.assert_show(log)


async def test_numbers_go_on_after_those_of_kept_rows(
    settings: TelemetrySettings, tables: Any, append: Append, bus: Connection
) -> None:
    logs = [simple_log(new_id()) for _ in range(3)]
    async with serve(settings):
        await tables.reach(await append([transition for one in logs for transition in one]))
        await expire(bus, logs[1:])
        await rebuild(settings)
        logs.append(simple_log(new_id()))
        await tables.reach(await append(logs[3]))
    await tables.assert_show([transition for one in logs for transition in one])


async def test_rows_of_what_had_not_ended_when_its_log_was_lost_go(
    settings: TelemetrySettings, tables: Any, append: Append, bus: Connection
) -> None:
    lost, other = simple_log(new_id())[:2], simple_log(new_id())
    async with serve(settings):
        await tables.reach(await append([*lost, *other]))
        await expire(bus, [lost])
        await rebuild(settings)
    await tables.assert_show(other)


async def test_a_log_that_a_replica_does_not_find_is_not_taken_for_expired(
    settings: TelemetrySettings, tables: Any, append: Append, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> list[Stored]:
        return []

    log = simple_log(new_id())
    async with serve(settings):
        await tables.reach(await append(log))
        monkeypatch.setattr("millrace_telemetry.rebuild.read_last_of_each", nothing)
        await rebuild(settings)
    await tables.assert_show(log)


async def test_operations_endpoint(settings: TelemetrySettings, tables: Any, append: Append) -> None:
    async with serve(settings) as ops:
        await tables.reach(await append(simple_log(new_id())))
        assert (await get(ops.port, "/healthz"))[0] == 200
        status, body = await get(ops.port, "/readyz")
        assert (status, msgspec.json.decode(body)["checks"]) == (200, {"nats": "ok", "postgres": "ok"})
        status, body = await get(ops.port, "/metrics")
        assert 'millrace_projection_leading{stream="EVENTS"} 1.0' in body
