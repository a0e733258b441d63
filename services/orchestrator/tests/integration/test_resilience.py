"""What breaks around the engine, or in it, and that it goes on."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import pytest

from millrace.embedded import BackgroundStack
from millrace_orchestrator import engine as engine_module
from millrace_orchestrator.adapters.inbox import Arrival
from millrace_orchestrator.errors import EngineStopped
from millrace_orchestrator.turn import Turn
from millrace_shared import subjects
from millrace_shared.codec import encode
from millrace_shared.messages import ErrorInfo, StepCompleted, StepRetryScheduled, StepScheduled
from millrace_shared.testing.services import http_get
from millrace_shared.values import BlobRef, Payload

PY = {"python": "m:f"}


async def test_it_goes_on_after_the_server_was_killed(bus: Any, start_engine: Any, fresh_nats: BackgroundStack) -> None:
    await start_engine()
    retry = {"max_attempts": 2, "initial": "100ms", "jitter": False}
    definition = await bus.define({"a": PY, "b": {**PY, "needs": ["a"]}, "c": {**PY, "retry": retry}})
    executions = [await bus.start(definition) for _ in range(10)]
    for execution in executions:
        await bus.perform(execution, "a")
    await asyncio.to_thread(fresh_nats.kill, "nats")
    await asyncio.to_thread(fresh_nats.wait_ready, "nats")

    async def connected() -> bool:
        return bool(bus.connection.is_connected)

    await bus.eventually(connected, "the test to be connected again")
    for execution in executions:
        await bus.fail(execution, "c")
        await bus.perform(execution, "c", attempt=2)
        await bus.perform(execution, "b")
    for execution in executions:
        assert (await bus.ended(execution)).status == "completed"
        events = await bus.events(execution)
        assert sum(isinstance(event, StepCompleted) for event in events) == 3


async def test_a_tick_that_fails_loses_nothing_that_nobody_would_deliver_again(
    bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "RETRY_DELAY_S", 0.01)
    engine = await start_engine()
    await bus.redeliver_after(600)  # the start that comes again would hide it
    execution = await bus.start(await bus.define({"a": PY}))
    work = await bus.take(execution, "a")
    perform, failures = engine._perform, iter((RuntimeError("planted"),))

    async def failing(turns: Any) -> None:
        for failure in failures:
            raise failure
        await perform(turns)

    monkeypatch.setattr(engine, "_perform", failing)
    engine.arrive(Arrival(subjects.inbox(execution), encode(bus.result(work, 1))))
    await bus.unacknowledged(execution, 0)  # the lease: released by the second tick only
    assert (await bus.ended(execution)).status == "completed"
    await engine.check()


async def test_a_result_whose_reference_points_nowhere_fails_its_own_execution_only(
    bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await start_engine()
    reader = {"a": PY, "b": {**PY, "needs": ["a"], "input": {"n": "${{ steps.a.output.rows.n }}"}}}
    broken, other = await bus.start(await bus.define(reader)), await bus.start(await bus.define({"a": PY}))
    reference = await engine._decider._blobs.put("default", b'{"n":1}')
    misplaced = Payload({"rows": None}, {"/rows/nowhere/else": BlobRef(reference.sha256, reference.size_bytes)})
    results = [
        bus.result(await bus.take(broken, "a"), misplaced),
        bus.result(await bus.take(other, "a"), 1),
    ]
    load, loaded = engine._decider.load, []

    async def counted(turn: Turn) -> None:
        loaded.append(turn.execution_id)
        await load(turn)

    monkeypatch.setattr(engine._decider, "load", counted)
    for result in results:
        engine.arrive(Arrival(subjects.inbox(result.execution_id), encode(result)))
    assert (await bus.ended(other)).status == "completed"
    assert (await bus.ended(broken)).status == "failed"
    assert loaded == [], "the tick was not taken again"


async def test_an_unexpected_error_while_deciding_is_the_execution_s_own(
    bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await start_engine()
    definition = await bus.define({"a": {**PY, "when": "inputs.n > 1"}}, inputs={"n": {"type": "integer"}})
    evaluate = engine._decider._evaluate

    def failing(program: Any, scope: Any) -> Any:
        if scope["inputs"]["n"] == 2:
            raise KeyError("planted")
        return evaluate(program, scope)

    monkeypatch.setattr(engine._decider, "_evaluate", failing)
    requests = [bus.request(definition, {"n": number}) for number in (2, 3)]
    for request in requests:
        engine.arrive(Arrival(subjects.start(request.execution_id), encode(request)))
    finished = await bus.ended(requests[0].execution_id)
    assert isinstance(finished.error, ErrorInfo)
    assert (finished.status, finished.error.code) == ("failed", "internal")
    await bus.perform(requests[1].execution_id, "a")
    assert (await bus.ended(requests[1].execution_id)).status == "completed"


async def test_readyz_says_when_the_engine_no_longer_ticks(
    bus: Any, start_engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = await start_engine()
    (port,) = [record.args[0] for record in caplog.records if "operations on port" in record.msg]
    assert (await http_get(port, "/readyz"))[0] == 200
    engine._task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await engine._task
    with pytest.raises(EngineStopped):
        await engine.check()
    status, body = await http_get(port, "/readyz")
    assert status == 503
    assert "does not tick" in body
    engine._task = None


async def test_a_graceful_stop_acknowledges_nothing_that_was_not_committed(bus: Any, start_process: Any) -> None:
    first = await start_process()
    definition = await bus.define({"a": PY, "b": {**PY, "needs": ["a"]}})
    executions = [await bus.start(definition) for _ in range(60)]
    results = {execution: bus.result(await bus.take(execution, "a"), 1) for execution in executions}
    for execution, result in results.items():
        bus.connection.send(subjects.inbox(execution), encode(result))
    await bus.connection.flush()
    first.send(signal.SIGTERM)
    assert await first.exit_status() == 0
    await start_process()
    for execution in executions:
        await bus.perform(execution, "b")
    for execution in executions:
        assert (await bus.ended(execution)).status == "completed"
        scheduled = [event for event in await bus.events(execution) if isinstance(event, StepScheduled)]
        assert len(scheduled) == 2


async def test_a_retry_that_is_due_while_the_bus_is_away_is_not_forgotten(
    bus: Any, start_engine: Any, fresh_nats: BackgroundStack
) -> None:
    await start_engine()
    retry = {"max_attempts": 2, "initial": "200ms", "jitter": False}
    execution = await bus.start(await bus.define({"a": {**PY, "retry": retry}}))
    await bus.fail(execution, "a")
    await bus.event(execution, StepRetryScheduled)
    await asyncio.to_thread(fresh_nats.kill, "nats")
    await asyncio.to_thread(fresh_nats.wait_ready, "nats")
    await bus.perform(execution, "a", attempt=2)
    assert (await bus.ended(execution)).status == "completed"
