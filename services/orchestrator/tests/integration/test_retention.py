"""Logs of executions that ended long ago are removed, and no others."""

from __future__ import annotations

import time
from typing import Any

import pytest
from msgspec.structs import replace

from millrace_orchestrator.adapters import log_walk
from millrace_orchestrator.adapters.retention import DAY_S, Retention
from millrace_shared import subjects
from millrace_shared.bus.connection import connect
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.bus.streams import STREAMS, ensure_streams
from millrace_shared.codec import encode
from millrace_shared.messages import StepScheduled

PY = {"python": "m:f"}
NO_WORK = {"t": {"transform": 1}}


class Later:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.days = 0.0

    def __call__(self) -> float:
        return time.time() + self.days * DAY_S


async def expire(bus: Any, days_later: float, days: float = 90.0) -> int:
    clock = Later()
    clock.days = days_later
    retention = Retention(bus.connection, days, clock)
    return sum([await retention.expire(partition) for partition in range(16)])


async def test_what_ended_long_ago_is_removed_and_what_runs_or_is_young_stays(bus: Any, start_engine: Any) -> None:
    await start_engine()
    definition = await bus.define(NO_WORK)
    ended = [await bus.start(definition) for _ in range(20)]
    running = await bus.start(await bus.define({"a": PY}))
    for execution in ended:
        await bus.ended(execution)
    await bus.has_queued(running, "a@1")
    assert await expire(bus, days_later=89) == 0
    assert await expire(bus, days_later=91) == len(ended)
    assert {one.subject for one in await bus.stored("EVENTS")} == {subjects.log(running)}
    await bus.perform(running, "a")
    assert (await bus.ended(running)).status == "completed"
    assert await expire(bus, days_later=91) == 1


async def test_a_cursor_reads_nothing_twice_and_a_run_is_bounded(
    bus: Any, start_engine: Any, partition_ids: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_engine()
    definition, ids = await bus.define(NO_WORK), partition_ids(3)
    for _ in range(6):
        await bus.ended(await bus.start(definition, execution_id=next(ids)))
    clock = Later()
    clock.days = 91
    retention = Retention(bus.connection, 90, clock)
    monkeypatch.setattr(log_walk, "MESSAGES_MAX", 4)
    assert await retention.expire(3) == 4
    assert await retention.expire(3) == 2
    assert await retention.expire(3) == 0


async def test_children_stay_until_the_execution_at_the_top_has_ended(bus: Any, start_engine: Any) -> None:
    await start_engine()
    inner = {"steps": {"deep": {"group": {"steps": NO_WORK}}}}
    execution = await bus.start(await bus.define({"team": {"group": inner}, "a": PY}))
    child = (await bus.event(execution, StepScheduled)).child or (await bus.event(execution, StepScheduled, 2)).child
    await bus.ended(child)
    assert await expire(bus, days_later=91) == 0
    assert await bus.log(child)
    await bus.perform(execution, "a")
    await bus.ended(execution)
    assert await expire(bus, days_later=91) == 3
    assert await bus.stored("EVENTS") == []


async def test_a_name_whose_log_was_removed_does_not_run_again(bus: Any, start_engine: Any) -> None:
    await start_engine()
    definition = await bus.define(NO_WORK)
    stale = replace(bus.request(definition), requested_at=time.time() - 91 * DAY_S, execution_name="a name")
    recent = replace(bus.request(definition), requested_at=time.time() - 89 * DAY_S, execution_name="another")
    for request in (stale, recent):
        await bus.publisher.publish(Outgoing(subjects.start(request.execution_id), encode(request)))
    await bus.ended(recent.execution_id)
    await bus.unacknowledged(stale.execution_id, 0)
    assert await bus.log(stale.execution_id) == []


async def test_a_stream_of_an_earlier_version_is_left_as_it_is(fresh_nats: Any) -> None:
    connection = await connect(fresh_nats.nats_url, "test")
    events = next(one for one in STREAMS if one.name == "EVENTS")
    await connection.jetstream_api("STREAM.CREATE.EVENTS", {**events.config(1), "deny_purge": True})
    await ensure_streams(connection)
    with pytest.raises(BusRefused):
        await connection.jetstream_api("STREAM.PURGE.EVENTS", {"filter": "ev.0.x"})
    await connection.close()
