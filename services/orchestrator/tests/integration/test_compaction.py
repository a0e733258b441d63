"""Logs of ended executions become one message each, whoever compacts them and wherever he is killed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from msgspec.structs import replace

from millrace_orchestrator.adapters import compaction, log_walk
from millrace_orchestrator.adapters.compaction import HOUR_S, Compaction
from millrace_orchestrator.adapters.retention import DAY_S, Retention
from millrace_orchestrator.domain.state import ExecutionState
from millrace_orchestrator.engine import Engine
from millrace_shared import subjects
from millrace_shared.bus.compacted import expand, is_compacted
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.log_reader import Stored, read_log, read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.streams import STREAMS, ensure_streams
from millrace_shared.codec import encode
from millrace_shared.errors import BusUnavailable
from millrace_shared.ids import new_id, partition_of
from millrace_shared.testing.logs import simple_log
from millrace_shared.testing.waiting import eventually

PY = {"python": "m:f"}


class Killed(Connection):
    """A connection that loses each purge, as if its process had died before it."""

    async def jetstream_api(self, operation: str, body: Any = None) -> dict[str, Any]:
        if operation == "STREAM.PURGE.EVENTS":
            raise BusUnavailable("killed")
        return await super().jetstream_api(operation, body)


def later(hours: float) -> Any:
    return lambda: time.time() + hours * HOUR_S


async def compact(bus: Any, hours_later: float = 25, hours: float = 24) -> int:
    one = Compaction(bus.connection, bus.publisher, hours, later(hours_later))
    return sum([await one.compact(partition) for partition in range(16)])


async def put(bus: Any, steps: int = 3, execution_id: str = "") -> str:
    """Store the log of an execution of `steps` steps that has ended; return its id."""
    execution_id = execution_id or new_id()
    for transition in simple_log(execution_id, steps=steps, at=time.time()):
        await bus.publisher.publish(Outgoing(subjects.log(execution_id), encode(transition)))
    return execution_id


async def raw(bus: Any, execution_id: str) -> list[Stored]:
    stored: list[Stored] = await bus.stored("EVENTS", subjects.log(execution_id))
    return stored


async def perform(bus: Any, execution_id: str, *steps: str) -> None:
    for step in steps:
        await bus.perform(execution_id, step, step)


async def test_what_ended_is_one_message_and_what_runs_or_is_young_is_untouched(bus: Any, start_engine: Any) -> None:
    await start_engine()
    definition = await bus.define({"a": PY, "b": {"needs": ["a"], **PY}})
    ended = [await bus.start(definition) for _ in range(5)]
    running = await bus.start(definition)
    for execution in ended:
        await perform(bus, execution, "a", "b")
        await bus.ended(execution)
    await perform(bus, running, "a")
    await bus.has_queued(running, "b@1")
    before = {one: await read_log(bus.connection, one) for one in [*ended, running]}
    assert await compact(bus, hours_later=23) == 0
    assert await compact(bus) == len(ended)
    assert await compact(bus) == 0
    for execution in ended:
        assert [is_compacted(one.payload) for one in await raw(bus, execution)] == [True]
        assert await read_log(bus.connection, execution) == before[execution]
    assert await raw(bus, running) == before[running]
    await perform(bus, running, "b")
    assert (await bus.ended(running)).status == "completed"
    assert await compact(bus) == 1


async def test_an_orchestrator_that_takes_over_folds_it_and_late_messages_change_nothing(
    bus: Any, start_engine: Any, stop_engine: Any
) -> None:
    first: Engine = await start_engine()
    execution = await bus.start(await bus.define({"a": PY, "b": {"needs": ["a"], **PY}}))
    work = await bus.take(execution, "a")
    await bus.send(execution, bus.result(work, 1))
    await perform(bus, execution, "b")
    await bus.ended(execution)
    await bus.unacknowledged(execution, 0)
    await stop_engine(first)
    assert await compact(bus) == 1
    stored = await raw(bus, execution)
    second: Engine = await start_engine()
    request = next(iter((await bus.log(execution))[0].events)).request
    await bus.send(execution, bus.result(work, 2))
    await bus.publisher.publish(Outgoing(subjects.start(execution), encode(request)))
    await bus.cancel(execution)
    await bus.unacknowledged(execution, 0)
    loaded = await second._journal.load(execution)
    assert loaded is not None
    state = loaded.state
    assert isinstance(state, ExecutionState)
    assert (state.finished, state.version) == (True, len(await bus.log(execution)))
    assert await raw(bus, execution) == stored


async def test_who_was_killed_before_the_purge_leaves_a_log_that_reads_the_same_and_the_next_walk_purges(
    bus: Any, fresh_nats: Any
) -> None:
    execution = await put(bus)
    before = await read_log(bus.connection, execution)
    killed = Killed()
    await killed.connect(fresh_nats.nats_url)
    dying = Compaction(killed, bus.publisher, 24, later(25))
    with pytest.raises(BusUnavailable):
        await dying.compact(partition_of(execution))
    assert len(await raw(bus, execution)) == len(before) + 1
    assert await read_log(bus.connection, execution) == before
    with pytest.raises(BusUnavailable):  # its own next walk begins with what it could not finish
        await dying.compact(partition_of(execution))
    await killed.close()
    assert await compact(bus) == 0
    assert [is_compacted(one.payload) for one in await raw(bus, execution)] == [True]
    assert await read_log(bus.connection, execution) == before


async def test_two_orchestrators_at_once_compact_each_log_once(bus: Any) -> None:
    executions = [await put(bus) for _ in range(12)]
    before = {one: await read_log(bus.connection, one) for one in executions}
    assert sum(await asyncio.gather(compact(bus), compact(bus), compact(bus))) == len(executions)
    for execution in executions:
        assert len(await raw(bus, execution)) == 1
        assert await read_log(bus.connection, execution) == before[execution]


async def test_what_is_short_broken_or_too_large_is_left_as_it_is(bus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    short, broken = await put(bus, steps=1), new_id()
    log = simple_log(broken, at=time.time())
    for transition in (log[0], log[2], log[3]):
        await bus.publisher.publish(Outgoing(subjects.log(broken), encode(transition)))
    large = await put(bus, steps=40)
    monkeypatch.setattr(compaction, "PACKED_BYTES_MAX", 700)
    before = await bus.stored("EVENTS")
    assert await compact(bus) == 0
    monkeypatch.setattr(compaction, "PACKED_BYTES_MAX", 7_000)
    monkeypatch.setattr(compaction, "UNPACKED_BYTES_MAX", 1_000)
    assert await compact(bus) == 0
    assert await bus.stored("EVENTS") == before
    monkeypatch.undo()
    assert await compact(bus) == 1
    assert len(await raw(bus, large)) == 1
    assert (len(await raw(bus, short)), len(await raw(bus, broken))) == (2, 3)


async def test_logs_of_earlier_versions_keep_their_bytes(bus: Any) -> None:
    execution = new_id()
    payloads = [encode(replace(one, v=1)) for one in simple_log(execution, at=time.time())]
    for payload in payloads:
        await bus.publisher.publish(Outgoing(subjects.log(execution), payload))
    assert await compact(bus) == 1
    (stored,) = await raw(bus, execution)
    assert [one.payload for one in expand(stored.payload)] == payloads
    assert [one.version for one in await bus.log(execution)] == [1, 2, 3, 4]


async def test_a_walk_reads_nothing_twice_and_passes_what_is_compacted(
    bus: Any, partition_ids: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = partition_ids(3)
    for _ in range(4):
        await put(bus, execution_id=next(ids))
    monkeypatch.setattr(log_walk, "MESSAGES_MAX", 8)  # two logs
    one = Compaction(bus.connection, bus.publisher, 24, later(25))
    assert [await one.compact(3) for _ in range(3)] == [2, 2, 0]
    await put(bus, execution_id=next(ids))
    assert await one.compact(3) == 1
    assert len(await bus.stored("EVENTS")) == 5


async def test_a_compacted_family_expires_as_a_whole_and_not_before_its_time(bus: Any, start_engine: Any) -> None:
    await start_engine()
    inner = {"steps": {"deep": {"group": {"steps": {"x": PY, "y": {"needs": ["x"], **PY}}}}}}
    execution = await bus.start(await bus.define({"team": {"group": inner}, "a": PY}))
    await perform(bus, execution, "a")

    async def leaf() -> str | None:
        found = [one.subject for one in await bus.stored("WORK") if one.subject.endswith(".x@1")]
        return found[0].split(".")[-2] if found else None

    await perform(bus, await eventually(leaf, "the innermost step in WORK"), "x", "y")
    await bus.ended(execution)
    assert len({one.subject for one in await bus.stored("EVENTS")}) == 3
    assert await compact(bus) == 2  # the log of the one between has two messages
    for days, expected in ((89, 0), (91, 3)):
        retention = Retention(bus.connection, 90, lambda days=days: time.time() + days * DAY_S)
        assert sum([await retention.expire(partition) for partition in range(16)]) == expected
    assert await bus.stored("EVENTS") == []


async def test_a_log_that_expires_while_it_is_compacted_does_not_come_back(bus: Any) -> None:
    execution = await put(bus)
    stored = await raw(bus, execution)
    await bus.connection.jetstream_api("STREAM.PURGE.EVENTS", {"filter": subjects.log(execution)})
    packed = compaction._packed(stored)
    with pytest.raises(BusRefused):
        await bus.publisher.publish(Outgoing(subjects.log(execution), packed, stored[-1].sequence))


async def test_an_orchestrator_compacts_by_itself(bus: Any, start_engine: Any) -> None:
    execution = await put(bus)
    before = await read_log(bus.connection, execution)
    await start_engine(log_compaction_hours=1 / HOUR_S)

    async def is_one() -> bool:
        return len(await raw(bus, execution)) == 1

    await eventually(is_one, "the log is compacted")
    assert await read_log(bus.connection, execution) == before


async def test_a_stream_that_lets_nobody_remove_anything_gets_no_second_copy(
    fresh_nats: Any, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await connect(fresh_nats.nats_url, "test")
    events = next(one for one in STREAMS if one.name == "EVENTS")
    await connection.jetstream_api("STREAM.CREATE.EVENTS", {**events.config(1), "deny_purge": True})
    await ensure_streams(connection)
    publisher = await Publisher(connection).start()
    execution = new_id()
    for transition in simple_log(execution, at=1.0):
        await publisher.publish(Outgoing(subjects.log(execution), encode(transition)))
    one = Compaction(connection, publisher, 1 / HOUR_S)
    one.start()

    async def said() -> bool:
        return "EVENTS lets nobody remove anything: no compaction" in caplog.text

    await eventually(said, "it is said that nothing is compacted")
    await one.stop()
    assert len([stored async for stored in read_subject(connection, "EVENTS", "ev.*.*")]) == 4
    await connection.close()
