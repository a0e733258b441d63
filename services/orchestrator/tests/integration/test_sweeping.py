"""The inbox is swept of what everybody has acknowledged, and of nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from millrace_orchestrator import engine as engine_module
from millrace_orchestrator.adapters.sweeper import Sweeper
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.bus.streams import STREAMS
from millrace_shared.codec import encode
from millrace_shared.ids import new_id, partition_of

PY = {"python": "m:f"}


def test_nothing_in_the_inbox_goes_by_age() -> None:
    (inbox,) = [stream for stream in STREAMS if stream.name == "INBOX"]
    assert inbox.config(1)["max_age"] == 0


async def test_a_sweep_keeps_everything_from_the_oldest_active_start_on(bus: Any, start_engine: Any) -> None:
    await start_engine()
    definition = await bus.define({"a": PY})
    early = [await bus.start(definition) for _ in range(5)]
    for execution in early:
        await bus.perform(execution, "a")
        await bus.ended(execution)
    active = await bus.start(definition)
    await bus.has_queued(active, "a@1")
    late = await bus.start(definition)
    await bus.perform(late, "a")
    await bus.ended(late)
    await bus.unacknowledged(active, 1)
    for execution in (*early, late):
        if partition_of(execution) != partition_of(active):
            await bus.unacknowledged(execution, 0)
    assert await Sweeper(bus.connection).sweep() == 10
    kept = {subjects.execution_id_of(stored.subject) for stored in await bus.stored("INBOX")}
    assert kept == {active, late}
    await bus.perform(active, "a")
    assert (await bus.ended(active)).status == "completed"
    await bus.unacknowledged(active, 0)

    async def empty() -> bool:
        await Sweeper(bus.connection).sweep()
        return not await bus.stored("INBOX")

    await bus.eventually(empty, "the inbox is empty once nothing is active")


async def test_messages_for_a_log_that_cannot_be_read_are_dead_letters_in_the_end(
    bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "BROKEN_DELAY_S", 0.05)
    await start_engine()
    execution = new_id()
    await bus.publisher.publish(Outgoing(subjects.log(execution), b'{"v":1,"nonsense":true}'))
    await bus.cancel(execution)

    async def buried() -> Any:
        return await bus.stored("DEAD")

    (letter,) = await bus.eventually(buried, "a dead letter")
    assert execution in letter.subject or execution.encode() in letter.payload


async def test_a_log_of_a_later_version_is_waited_for(
    bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "RETRY_DELAY_S", 0.05)
    await start_engine()
    execution = new_id()
    await bus.publisher.publish(Outgoing(subjects.log(execution), encode({"v": 99})))
    await bus.cancel(execution)

    async def tried_often() -> bool:
        info = await bus.consumer(execution)
        return bool(info["num_redelivered"] and info["delivered"]["consumer_seq"] > 8)

    await bus.eventually(tried_often, "several deliveries")
    assert await bus.stored("DEAD") == []
