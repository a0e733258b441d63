"""Tables that are made anew from the log: the same as before, and kept where the log has expired."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest

from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import Stored
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.ids import new_id
from millrace_shared.messages import (
    ExecutionFinished,
    StepStarted,
    Transition,
)
from millrace_shared.testing.logs import interleaved, random_log, simple_log
from millrace_telemetry.bootstrap import serve
from millrace_telemetry.rebuild import rebuild
from millrace_telemetry.settings import TelemetrySettings

Append = Callable[[list[Transition]], Awaitable[int]]


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
    expire: Any,
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
        await expire(expired)
        await bus.jetstream_api("STREAM.PURGE.TELEMETRY")  # facts are kept for days only
        if not service_runs:
            await stack.aclose()
        for _ in range(2):
            await tables.pool.execute(
                "UPDATE telemetry.executions SET tokens_used = -1 WHERE NOT (id = ANY($1))",
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
    settings: TelemetrySettings, tables: Any, append: Append, expire: Any
) -> None:
    logs = [simple_log(new_id()) for _ in range(3)]
    async with serve(settings):
        await tables.reach(await append([transition for one in logs for transition in one]))
        await expire(logs[1:])
        await rebuild(settings)
        logs.append(simple_log(new_id()))
        await tables.reach(await append(logs[3]))
    await tables.assert_show([transition for one in logs for transition in one])


async def test_rows_of_what_had_not_ended_when_its_log_was_lost_go(
    settings: TelemetrySettings, tables: Any, append: Append, expire: Any
) -> None:
    lost, other = simple_log(new_id())[:2], simple_log(new_id())
    async with serve(settings):
        await tables.reach(await append([*lost, *other]))
        await expire([lost])
        await rebuild(settings)
    (row,) = await tables.rows("executions")
    assert (row["id"], row["execution_number"]) == (other[0].execution_id, 2)  # the number of another is not given


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
