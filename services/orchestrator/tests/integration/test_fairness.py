"""A flood of one workspace's starts, on a real NATS server: others go ahead, and nothing of it is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from millrace_orchestrator import intake
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import encode
from millrace_shared.messages import CancelRequest, StartRequest

FLOOD = 400
NO_WORK = {"a": {"transform": {"done": True}}}


async def flood(bus: Any, definition: str, count: int = FLOOD) -> list[str]:
    requests = [replace(bus.request(definition), workspace="a") for _ in range(count)]
    await accept(bus, *requests)
    return [request.execution_id for request in requests]


async def accept(bus: Any, *requests: StartRequest) -> None:
    await bus.publisher.publish_all([Outgoing(subjects.start(one.execution_id), encode(one)) for one in requests])


async def all_acknowledged(bus: Any) -> bool:
    for partition in range(16):
        info = await bus.connection.jetstream_api(f"CONSUMER.INFO.INBOX.inbox-{partition}")
        if info["num_pending"] or info["num_ack_pending"]:
            return False
    return True


@pytest.fixture
def slow_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few starts in a tick, so that a line is there to be seen; and each is told to come again much later."""
    monkeypatch.setattr(intake, "TICK_STARTS_MAX", 4)
    monkeypatch.setattr(intake, "PATIENT_FROM", 10)


@pytest.mark.usefixtures("slow_starts")
async def test_a_newcomer_begins_before_a_flood_that_was_accepted_earlier(bus: Any, start_engine: Any) -> None:
    definition = await bus.define(NO_WORK)
    executions = await flood(bus, definition)
    newcomer = replace(bus.request(definition), workspace="b")
    await accept(bus, newcomer)
    await start_engine()
    await bus.ended(newcomer.execution_id)
    order = [subjects.execution_id_of(one.subject) for one in await bus.stored("EVENTS")]
    assert order.index(newcomer.execution_id) < FLOOD / 2
    for execution in executions:
        await bus.ended(execution)
    await bus.eventually(lambda: all_acknowledged(bus), "every start to be acknowledged, given back for a while or not")
    assert len({one.subject for one in await bus.stored("EVENTS")}) == FLOOD + 1


@pytest.mark.usefixtures("slow_starts")
async def test_a_cancel_does_not_wait_for_the_turn_of_its_start(bus: Any, start_engine: Any) -> None:
    definition = await bus.define({"a": {"python": "m:f"}})
    await start_engine()
    executions = await flood(bus, definition)
    await bus.send(executions[-1], CancelRequest(executions[-1], "c1"))
    assert (await bus.ended(executions[-1])).status == "cancelled"
    assert await bus.stored("DEAD") == []


async def test_what_has_no_room_is_left_to_the_server_and_comes_again(
    bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "WAITING_BYTES_MAX", 20_000)
    monkeypatch.setattr(intake, "TICK_STARTS_MAX", 2)
    executions = await flood(bus, await bus.define(NO_WORK), 100)
    await start_engine()
    for execution in executions:  # long before the minute is over
        await bus.ended(execution)
    await bus.eventually(lambda: all_acknowledged(bus), "every start to be acknowledged")


async def test_a_partition_that_was_lost_is_forgotten(bus: Any, start_engine: Any) -> None:
    engine = await start_engine()
    definition = await bus.define({"a": {"python": "m:f"}, "b": {"python": "m:f", "needs": ["a"]}})
    execution = await bus.start(definition)
    await bus.has_queued(execution, "a@1")
    partition = subjects.partition_in(subjects.start(execution))
    assert execution in engine._executions
    assert execution in engine._leases
    engine.lose(partition)
    assert execution not in engine._executions
    assert execution not in engine._leases
    assert engine.timers._of_execution == {}
    await asyncio.gather(*(bus.perform(execution, step) for step in "ab"))
    assert (await bus.ended(execution)).status == "completed"
