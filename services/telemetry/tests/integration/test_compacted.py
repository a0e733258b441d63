"""Compacted logs: passed over where the tables hold what they say, projected where they do not."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest

from millrace_shared import subjects
from millrace_shared.bus.compacted import Entry, pack
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.ids import new_id
from millrace_shared.messages import ExecutionFinished, StepCompleted, Transition
from millrace_shared.testing.logs import interleaved, random_log, simple_log
from millrace_telemetry.bootstrap import serve
from millrace_telemetry.rebuild import rebuild
from millrace_telemetry.settings import TelemetrySettings

Append = Callable[[Sequence[Transition]], Awaitable[int]]
Compact = Callable[..., Awaitable[int]]


@pytest.fixture
def compact(bus: Connection, publisher: Publisher) -> Compact:
    """Compacts a log as the orchestrator does; returns the sequence of the message that it becomes."""

    async def compact_(log: Sequence[Transition], *, purge: bool = True) -> int:
        subject = subjects.log(log[0].execution_id)
        stored = [Entry(one.sequence, one.payload) async for one in read_subject(bus, "EVENTS", subject)]
        ack = await publisher.publish(Outgoing(subject, pack(stored, log[-1].at), stored[-1].sequence))
        if purge:
            await bus.jetstream_api("STREAM.PURGE.EVENTS", {"filter": subject, "seq": ack.seq})
        return ack.seq

    return compact_


async def test_what_is_projected_to_its_end_is_not_written_again(
    settings: TelemetrySettings, tables: Any, append: Append, compact: Compact, metric: Any, dead_letters: Any
) -> None:
    logs = [simple_log(new_id()) for _ in range(5)]
    async with serve(settings):
        projected = interleaved(Random(1), logs)
        await tables.reach(await append(projected))
        versions = await tables.pool.fetch("SELECT xmin, id FROM telemetry.executions ORDER BY id")
        events, unfolded = metric("messages_total"), metric("unfolded_total")
        for log in logs:
            last = await compact(log)
        await tables.reach(last)
        assert await tables.pool.fetch("SELECT xmin, id FROM telemetry.executions ORDER BY id") == versions
        assert (metric("messages_total"), metric("unfolded_total")) == (events, unfolded)
        other = simple_log(new_id())
        await tables.reach(await append(other))
    await tables.assert_show([*projected, *other])
    assert await dead_letters("EVENTS") == []


@pytest.mark.parametrize("batch_max", [1, 3, 500])
@pytest.mark.parametrize("purge", [True, False])
async def test_what_was_compacted_while_nobody_projected_is_read_from_there(
    settings: TelemetrySettings,
    tables: Any,
    append: Append,
    compact: Compact,
    metric: Any,
    *,
    batch_max: int,
    purge: bool,
) -> None:
    half, unseen, running = (simple_log(new_id(), steps=7) for _ in range(3))
    settings = settings.model_copy(update={"telemetry_batch_max": batch_max})
    async with serve(settings):
        await tables.reach(await append([half[0], running[0], half[1], half[2]]))
    await append([*half[3:], *unseen, running[1]])
    unfolded = metric("unfolded_total")
    for log in (unseen, half):
        await compact(log, purge=purge)
    last = await append([running[2]])
    async with serve(settings):
        await tables.reach(last)
    assert metric("unfolded_total") - unfolded == (len(half) - 3 + len(unseen) if purge else 0)
    await tables.assert_show([half[0], running[0], *half[1:], *unseen, *running[1:3]])


@pytest.mark.parametrize("service_runs", [False, True])
async def test_rebuilt_tables_are_identical_numbers_included(
    settings: TelemetrySettings,
    tables: Any,
    append: Append,
    compact: Compact,
    expire: Any,
    *,
    service_runs: bool,
) -> None:
    random = Random(8)
    logs = [random_log(random) for _ in range(40)]
    ended = [log for log in logs if isinstance(log[-1].events[-1], ExecutionFinished)]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve(settings))
        await tables.reach(await append(interleaved(random, logs)))
        before = await tables.every_row()
        random.shuffle(ended)
        for log in ended[:20]:
            last = await compact(log)
        await tables.reach(last)
        await expire(ended[5:10])  # compacted ones
        await expire(ended[20:24])
        if not service_runs:
            await stack.aclose()
        for _ in range(2):
            await rebuild(settings)
            assert await tables.every_row() == before
        assert await tables.pool.fetchval("SELECT count(*) FROM telemetry.kept_numbers") == 0


async def test_who_comes_while_numbers_are_put_aside_gets_new_ones(
    settings: TelemetrySettings, tables: Any, append: Append, compact: Compact
) -> None:
    first, second, third = (simple_log(new_id()) for _ in range(3))
    async with serve(settings):
        await tables.reach(await append([*first, *second]))
    await append(third)  # before the first in the stream, once that is compacted
    await compact(first)
    await rebuild(settings)
    await tables.assert_show([*first, *second, *third])


async def test_a_value_that_is_refused_is_buried_once_as_the_message_that_it_was(
    settings: TelemetrySettings, tables: Any, append: Append, compact: Compact, dead_letters: Any
) -> None:
    log, other = simple_log(new_id()), simple_log(new_id())
    identity = log[0].execution_id
    log.insert(2, Transition(2, identity, 3, log[1].at, (StepCompleted("a", 2**40),)))
    log[3:] = [Transition(2, identity, number, one.at, one.events) for number, one in enumerate(log[3:], 4)]
    await append(log)
    last = await compact(log)
    async with serve(settings):
        await tables.reach(last)
        (letter,) = await dead_letters("EVENTS")
        assert (letter.sequence, letter.subject) == (3, subjects.log(identity))
        await rebuild(settings)
        await tables.reach(await append(other))
    assert await dead_letters("EVENTS") == [letter]
    await tables.assert_show([*log[:2], *log[3:], *other])


async def test_one_that_is_damaged_is_buried_and_passed_over(
    settings: TelemetrySettings, tables: Any, append: Append, publisher: Publisher, dead_letters: Any
) -> None:
    log = simple_log(new_id())
    damaged = pack([Entry(1, b"{}")], 1.0)[:-2]
    await publisher.publish(Outgoing(subjects.log(new_id()), damaged))
    last = await append(log)
    async with serve(settings):
        await tables.reach(last)
    await tables.assert_show(log)
    assert [letter.payload for letter in await dead_letters("EVENTS")] == [damaged]
