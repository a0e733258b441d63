"""From a start to the end: what is stored where, in which order it is acknowledged, and what a bad message does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from millrace_orchestrator import engine as engine_module
from millrace_orchestrator.adapters.inbox import Arrival
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.bus.streams import ensure_streams
from millrace_shared.codec import encode
from millrace_shared.ids import new_id, partition_of
from millrace_shared.messages import (
    CancelRequest,
    DeadLetter,
    ExecutionCancelRequested,
    ExecutionFinished,
    ExecutionStarted,
    StepCompleted,
    StepResult,
    StepScheduled,
)
from millrace_shared.values import Payload

PY = {"python": "m:f"}


async def test_an_execution_from_its_start_to_its_end(bus: Any, start_engine: Any) -> None:
    await start_engine()
    definition = await bus.define(
        {
            "a": {**PY, "input": {"n": "${{ inputs.n }}"}},
            "b": {**PY, "needs": ["a"], "input": {"x": "${{ steps.a.output.x }}"}},
        },
        inputs={"n": {"type": "integer"}},
        outputs={"r": "${{ steps.b.output }}"},
    )
    execution = await bus.start(definition, {"n": 7})
    work = (await bus.has_queued(execution, "a@1"))["a@1"]
    (stored,) = await bus.stored("WORK")
    assert stored.subject == f"work.python.normal.{partition_of(execution)}.{execution}.a@1"
    assert (work.workflow_name, work.workflow_version, work.kind, work.attempt) == ("wf", 3, "python", 1)
    assert (work.input, bytes(work.spec)) == (Payload({"n": 7}), b'{"call":"m:f"}')
    await bus.unacknowledged(execution, 1)  # the start: it is the lease

    await bus.perform(execution, "a", {"x": 1})
    work = (await bus.has_queued(execution, "b@1"))["b@1"]
    assert work.input == Payload({"x": 1})
    await bus.unacknowledged(execution, 1)

    await bus.perform(execution, "b", "done")
    finished = await bus.ended(execution)
    assert (finished.status, finished.output) == ("completed", Payload({"r": "done"}))
    await bus.unacknowledged(execution, 0)
    kinds = [[type(event) for event in transition.events] for transition in await bus.log(execution)]
    assert kinds == [
        [ExecutionStarted, StepScheduled],
        [StepCompleted, StepScheduled],
        [StepCompleted, ExecutionFinished],
    ]


async def test_a_late_result_after_the_end_is_acknowledged_and_changes_nothing(bus: Any, start_engine: Any) -> None:
    await start_engine()
    execution = await bus.start(await bus.define({"a": PY}))
    work = await bus.take(execution, "a")
    await bus.send(execution, bus.result(work, 1), bus.result(work, 2))
    await bus.ended(execution)
    await bus.send(execution, bus.result(work, 3))
    await bus.unacknowledged(execution, 0)
    outputs = [event.output.data for event in await bus.events(execution) if isinstance(event, StepCompleted)]
    assert outputs == [1]


async def letters(bus: Any, count: int) -> list[DeadLetter]:
    import msgspec

    async def look() -> Any:
        found = await bus.stored("DEAD")
        return found if len(found) >= count else None

    found = await bus.eventually(look, f"{count} dead letters")
    return [msgspec.json.decode(one.payload, type=DeadLetter) for one in found]


async def test_poison_is_buried_with_its_reason_and_the_others_go_on(
    bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "RETRY_DELAY_S", 0.01)
    await start_engine()
    execution = await bus.start(await bus.define({"a": PY}))
    nobody = new_id()
    await bus.publisher.publish(Outgoing(subjects.inbox(execution), b"\xff no message"))
    await bus.send(execution, StepResult(nobody, "a", 1, 0.0, 0.0))
    await bus.send(nobody, StepResult(nobody, "a", 1, 0.0, 0.0))
    found = {letter.subject + ": " + letter.reason for letter in await letters(bus, 3)}
    place = subjects.inbox(execution)
    assert any(one.startswith(f"{place}: ") and "malformed" in one.lower() for one in found), found
    assert f"{place}: it is for execution {nobody}, and came to the inbox of {execution}" in found
    assert f"{subjects.inbox(nobody)}: there is no such execution" in found
    await bus.perform(execution, "a")
    assert (await bus.ended(execution)).status == "completed"
    await bus.unacknowledged(execution, 0)
    await bus.unacknowledged(nobody, 0)


async def test_messages_sent_to_the_wrong_partition_do_not_use_up_its_credit(
    bus: Any, start_engine: Any, partition_ids: Any
) -> None:
    await start_engine()
    stranger, execution = next(partition_ids(3)), next(partition_ids(5))
    for _ in range(300):
        bus.connection.send(f"in.5.{stranger}", b"no message")
    await bus.start(await bus.define({"a": PY}), execution_id=execution)
    await bus.perform(execution, "a")
    assert (await bus.ended(execution)).status == "completed"
    assert len(await letters(bus, 300)) == 300


async def test_without_its_definition_an_execution_fails_and_ends(bus: Any, start_engine: Any) -> None:
    await start_engine()
    execution = await bus.start("0" * 64)
    finished = await bus.ended(execution)
    assert (finished.status, finished.error.code) == ("failed", "definition_missing")
    await bus.unacknowledged(execution, 0)


async def test_a_definition_that_is_lost_later_neither_ends_nor_spins_the_execution(
    bus: Any, start_engine: Any, stop_engine: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "BROKEN_DELAY_S", 0.1)
    first = await start_engine()
    execution = await bus.start(await bus.define({"a": PY}))
    await bus.has_queued(execution, "a@1")
    await stop_engine(first)
    await bus.connection.jetstream_api("STREAM.DELETE.DEFINITIONS")
    await ensure_streams(bus.connection)
    before = await bus.log(execution)
    await start_engine()

    async def looked_at_twice() -> bool:
        return caplog.text.count("cannot go on: it has started, and no definition") >= 2

    await bus.eventually(looked_at_twice, "the execution to be looked at")
    assert await bus.log(execution) == before
    await bus.define({"a": PY})
    await bus.perform(execution, "a")
    assert (await bus.ended(execution)).status == "completed"


async def test_a_cancel_that_is_delivered_before_its_start_holds(bus: Any, start_engine: Any) -> None:
    await start_engine()
    definition, execution = await bus.define({"a": PY}), new_id()
    await bus.cancel(execution)

    async def delivered() -> bool:
        return bool((await bus.consumer(execution))["delivered"]["consumer_seq"])

    await bus.eventually(delivered, "the cancel to be delivered")
    await bus.start(definition, execution_id=execution)
    assert (await bus.ended(execution)).status == "cancelled"
    await bus.unacknowledged(execution, 0)


async def test_a_cancel_that_meets_its_start_in_one_tick_holds(bus: Any, start_engine: Any) -> None:
    engine = await start_engine()
    request = bus.request(await bus.define({"a": PY}))
    execution = request.execution_id
    engine.arrive(Arrival(subjects.inbox(execution), encode(CancelRequest(execution, "c1")), again=True))
    engine.arrive(Arrival(subjects.start(execution), encode(request), again=True))
    assert (await bus.ended(execution)).status == "cancelled"


async def test_a_cancel_purges_queued_work_and_tells_the_runners(bus: Any, start_engine: Any) -> None:
    await start_engine()
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    await bus.connection.listen("ctl.cancel.*", lambda subject, _, __, payload: heard.put_nowait((subject, payload)))
    await bus.connection.flush()
    execution = await bus.start(await bus.define({"a": PY, "each": {**PY, "for_each": [1, 2]}}))
    await bus.has_queued(execution, "a@1", "each~0@1", "each~1@1")
    await bus.cancel(execution)
    assert (await bus.ended(execution)).status == "cancelled"
    await bus.has_queued(execution)
    async with asyncio.timeout(60):
        subject, payload = await heard.get()
    assert (subject, payload) == (f"ctl.cancel.{execution}", b'{"attempts":["a@1","each~0@1","each~1@1"]}')


async def test_a_cancel_leaves_the_cleanup_that_is_queued(bus: Any, start_engine: Any) -> None:
    await start_engine()
    execution = await bus.start(await bus.define({"a": PY, "clean": {**PY, "run": "always"}}))
    await bus.has_queued(execution, "a@1", "clean@1")
    await bus.cancel(execution)
    await bus.event(execution, ExecutionCancelRequested)
    await bus.has_queued(execution, "clean@1")
    await bus.perform(execution, "clean")
    assert (await bus.ended(execution)).status == "cancelled"
