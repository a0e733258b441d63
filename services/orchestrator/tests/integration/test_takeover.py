"""More than one orchestrator, at once or after one another: nothing is lost, and nothing happens twice in the log."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from typing import Any

import pytest

from millrace_orchestrator import leases, metrics
from millrace_orchestrator.adapters import inbox as inbox_module
from millrace_orchestrator.adapters.inbox import Arrival, active_starts
from millrace_shared import subjects
from millrace_shared.codec import encode
from millrace_shared.messages import ExecutionStarted, StepCompleted, StepRetryScheduled, StepScheduled, TimerFired

PY = {"python": "m:f"}
RETRY = {**PY, "retry": {"max_attempts": 2, "initial": "1s", "jitter": False}}


async def assert_nothing_twice(bus: Any, execution: str) -> None:
    log = await bus.log(execution)
    events = [event for transition in log for event in transition.events]
    assert [transition.version for transition in log] == list(range(1, len(log) + 1))
    attempts = Counter((event.step, event.item, event.attempt) for event in events if isinstance(event, StepScheduled))
    completed = Counter((event.step, event.item) for event in events if isinstance(event, StepCompleted))
    assert set(attempts.values()) <= {1}
    assert set(completed.values()) <= {1}


def found_again(bus: Any, request: Any) -> Arrival:
    return Arrival(subjects.start(request.execution_id), encode(request), again=True)


def arrives(message: Any, *, again: bool = False) -> Arrival:
    return Arrival(subjects.inbox(message.execution_id), encode(message), again=again)


async def test_after_a_kill_another_queues_lost_work_and_arms_timers_again(bus: Any, start_process: Any) -> None:
    first = await start_process()
    definition = await bus.define({"a": PY, "b": RETRY, "c": {**PY, "for_each": [1, 2]}, "d": {**PY, "needs": ["a"]}})
    execution = await bus.start(definition)
    await bus.perform(execution, "c", 1, item=0)
    await bus.fail(execution, "b")
    await bus.event(execution, StepRetryScheduled)
    await bus.has_queued(execution, "a@1", "c~1@1")
    first.send(signal.SIGKILL)
    assert await first.exit_status() == -signal.SIGKILL
    await bus.lose_work()
    assert await bus.queued(execution) == {}

    await start_process()
    await bus.has_queued(execution, "a@1", "b@2", "c~1@1")
    await bus.perform(execution, "b", attempt=2)
    await bus.perform(execution, "a")
    await bus.perform(execution, "c", 2, item=1)
    await bus.perform(execution, "d")
    assert (await bus.ended(execution)).status == "completed"
    await assert_nothing_twice(bus, execution)
    await bus.has_queued(execution)
    await bus.unacknowledged(execution, 0)


async def test_a_stopped_process_that_wakes_up_changes_nothing_and_loses_nothing(bus: Any, start_process: Any) -> None:
    steps = {"a": PY, "b": {**PY, "needs": ["a"]}, "c": {**PY, "needs": ["b"]}}
    first = await start_process()
    execution = await bus.start(await bus.define(steps))
    await bus.has_queued(execution, "a@1")  # the first has it in memory
    await start_process()
    await bus.redeliver_after(1.0)  # the lease: whoever finishes it may not be who it was delivered to
    first.send(signal.SIGSTOP)
    try:
        await bus.perform(execution, "a", 1)
        await bus.perform(execution, "b", 2)  # the second has taken over
    finally:
        first.send(signal.SIGCONT)
    await bus.perform(execution, "c", 3)
    assert (await bus.ended(execution)).status == "completed"
    await bus.unacknowledged(execution, 0)
    await assert_nothing_twice(bus, execution)


@pytest.fixture
async def two_engines(start_engine: Any) -> Any:
    return await start_engine(), await start_engine()


async def test_a_result_that_a_stale_memory_takes_for_a_late_one_is_read_from_the_log(
    bus: Any, two_engines: Any
) -> None:
    first, second = two_engines
    request = bus.request(await bus.define({"a": PY, "b": {**PY, "needs": ["a"]}}))
    first.arrive(found_again(bus, request))
    work = await bus.take(request.execution_id, "a")
    second.arrive(arrives(bus.result(work, 1)))
    work = await bus.take(request.execution_id, "b")
    first.arrive(arrives(bus.result(work, 2)))  # in its memory `b` has not begun
    assert (await bus.ended(request.execution_id)).status == "completed"
    await assert_nothing_twice(bus, request.execution_id)


async def test_who_loses_the_fence_decides_again_from_the_log(bus: Any, two_engines: Any) -> None:
    first, second = two_engines
    request = bus.request(await bus.define({"a": PY, "b": PY, "c": {**PY, "needs": ["a", "b"]}}))
    execution = request.execution_id
    first.arrive(found_again(bus, request))
    a, b = await bus.take(execution, "a"), await bus.take(execution, "b")
    second.arrive(arrives(bus.result(a, 1)))
    await bus.event(execution, StepCompleted)
    lost = metrics.fences_lost._value.get()
    first.arrive(arrives(bus.result(b, 2)))  # it has events for it, after a log that has grown since
    await bus.perform(execution, "c")
    assert (await bus.ended(execution)).status == "completed"
    assert metrics.fences_lost._value.get() == lost + 1
    await assert_nothing_twice(bus, execution)


async def test_a_start_that_two_decide_on_is_started_once(bus: Any, two_engines: Any) -> None:
    definition = await bus.define({"a": PY})
    requests = [bus.request(definition) for _ in range(20)]
    for request in requests:
        for engine in two_engines:
            engine.arrive(Arrival(subjects.start(request.execution_id), encode(request)))
    for request in requests:
        await bus.perform(request.execution_id, "a")
        await bus.ended(request.execution_id)
        await assert_nothing_twice(bus, request.execution_id)


async def test_a_takeover_that_meets_a_result_still_performs_what_else_is_outstanding(
    bus: Any, start_engine: Any
) -> None:
    first = await start_engine()
    request = bus.request(await bus.define({"a": PY, "b": PY, "c": {**PY, "needs": ["a"]}}))
    execution = request.execution_id
    first.arrive(found_again(bus, request))
    work = await bus.take(execution, "a")
    await bus.has_queued(execution, "b@1")
    await bus.lose_work()
    first.arrive(found_again(bus, request))
    first.arrive(arrives(bus.result(work, 1)))  # decided in the same tick
    await bus.has_queued(execution, "b@1", "c@1")


async def test_work_that_is_queued_already_keeps_nobody(
    bus: Any, start_engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await start_engine()
    await bus.lose_work()  # ids are forgotten soon: only the subject says that the work is there
    definition = await bus.define({"a": PY})
    request = bus.request(definition)
    engine.arrive(found_again(bus, request))
    await bus.has_queued(request.execution_id, "a@1")
    await bus.duplicates_forgotten()
    engine.arrive(found_again(bus, request))
    other = await bus.start(definition)
    await bus.perform(other, "a")
    await bus.ended(other)
    assert "not performed" not in caplog.text
    await bus.perform(request.execution_id, "a")
    await bus.ended(request.execution_id)


async def test_an_old_lease_is_renewed_at_the_end_of_the_stream(
    bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_DELIVERIES_MAX", 3)
    await start_engine()
    await bus.redeliver_after(0.05)
    execution = await bus.start(await bus.define({"a": PY}))
    old = (await bus.stored("INBOX", subjects.start(execution)))[0].sequence

    async def renewed() -> bool:
        return int((await bus.consumer(execution))["ack_floor"]["stream_seq"]) >= old

    await bus.eventually(renewed, "the first lease to be given up")
    assert (await bus.stored("INBOX", subjects.start(execution)))[-1].sequence > old
    partition = int(subjects.start(execution).split(".")[1])
    starts = [one.start.subject async for one in active_starts(bus.connection, partition)]
    assert starts == [subjects.start(execution)]
    await bus.perform(execution, "a")
    await bus.ended(execution)
    await bus.unacknowledged(execution, 0)
    await assert_nothing_twice(bus, execution)


async def test_a_scan_finds_what_has_no_end(
    bus: Any, start_engine: Any, stop_engine: Any, partition_ids: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "PAGE_MESSAGES", 2)
    engine = await start_engine()
    definition = await bus.define({"a": PY})
    ids = partition_ids(4)
    blocker, *ended = [await bus.start(definition, execution_id=next(ids)) for _ in range(4)]
    running = [await bus.start(definition, execution_id=next(ids)) for _ in range(2)]
    for execution in ended:
        await bus.perform(execution, "a")
        await bus.ended(execution)
    for execution in running:
        await bus.has_queued(execution, "a@1")
    await stop_engine(engine)
    unseen = [await bus.start(definition, execution_id=next(ids)) for _ in range(3)]
    found = [subjects.execution_id_of(one.start.subject) async for one in active_starts(bus.connection, 4)]
    assert found == [blocker, *running, *unseen], "those that have ended are left out although their starts are there"


async def test_a_long_pause_is_a_schedule_of_the_server_and_a_cancel_removes_it(bus: Any, start_engine: Any) -> None:
    await start_engine(orchestrator_timer_horizon_s=1.0)
    pause = {**PY, "retry": {"max_attempts": 2, "initial": "1h", "max": "1h", "jitter": False}}
    execution = await bus.start(
        await bus.define({"a": pause, "w": {"wait": {"delay": "2h"}}}, limits={"timeout": "1d"})
    )
    await bus.fail(execution, "a")

    async def scheduled() -> bool:
        set_ = await bus.stored("TIMERS", subjects.timer_set(execution, "*"))
        return {one.subject.rsplit(".", 1)[1] for one in set_} == {"retry-a@1", "wait-w@0"}

    await bus.eventually(scheduled, "two schedules")
    await bus.cancel(execution)
    assert (await bus.ended(execution)).status == "cancelled"

    async def purged() -> bool:
        return not await bus.stored("TIMERS")

    await bus.eventually(purged, "the schedules to be removed")


async def test_a_schedule_fires_into_the_inbox_and_an_early_timer_sets_it_again(bus: Any, start_engine: Any) -> None:
    await start_engine(orchestrator_timer_horizon_s=1.0)
    execution = await bus.start(await bus.define({"w": {"wait": {"delay": "3s"}}, "a": {**PY, "needs": ["w"]}}))

    async def scheduled() -> bool:
        return bool(await bus.stored("TIMERS", subjects.timer_set(execution, "*")))

    await bus.eventually(scheduled, "the schedule")
    await bus.connection.jetstream_api("STREAM.PURGE.TIMERS")
    await bus.send(execution, TimerFired(execution, "wait", "w"))
    await bus.eventually(scheduled, "the schedule to be set again, for it fired too early")
    await bus.perform(execution, "a")
    assert (await bus.ended(execution)).status == "completed"
    fired = [one for one in await bus.stored("INBOX", subjects.inbox(execution)) if b'"timer"' in one.payload]
    assert len(fired) == 2, "ours, and the server's"


async def test_takeovers_in_a_row_leave_one_schedule(bus: Any, start_engine: Any) -> None:
    engine = await start_engine(orchestrator_timer_horizon_s=1.0)
    request = bus.request(await bus.define({"w": {"wait": {"delay": "1h"}}}, limits={"timeout": "1d"}))
    for _ in range(3):
        engine.arrive(found_again(bus, request))
        await asyncio.sleep(0)
    other = await bus.start(await bus.define({"a": PY}))
    await bus.has_queued(other, "a@1")
    assert len(await bus.stored("TIMERS", subjects.timer_set(request.execution_id, "*"))) == 1


async def test_who_stops_gives_up_its_pins_and_another_goes_on(bus: Any, start_engine: Any, stop_engine: Any) -> None:
    first = await start_engine()
    execution = await bus.start(await bus.define({"a": PY}))
    await bus.has_queued(execution, "a@1")
    await start_engine()
    advisories: asyncio.Queue[bytes] = asyncio.Queue()
    await bus.connection.listen(inbox_module.UNPINNED, lambda _, __, ___, payload: advisories.put_nowait(payload))
    await bus.connection.flush()
    await stop_engine(first)
    async with asyncio.timeout(60):
        assert b'"reason":"admin"' in (await advisories.get()), "and not: it has run out"
    await bus.perform(execution, "a")
    assert (await bus.ended(execution)).status == "completed"


async def test_who_is_beyond_its_deadline_is_ended_by_whoever_looks_next(
    bus: Any, start_engine: Any, stop_engine: Any
) -> None:
    first = await start_engine()
    execution = await bus.start(await bus.define({"a": PY}, limits={"timeout": "5s"}))
    await bus.has_queued(execution, "a@1")
    await stop_engine(first)
    deadline = (await bus.event(execution, ExecutionStarted)).deadline

    async def is_over() -> bool:
        return time.time() > deadline

    await bus.eventually(is_over, "the deadline to pass while nobody watches")
    overdue = metrics.overdue._value.get()
    await start_engine()
    assert (await bus.ended(execution)).status == "timeout"
    assert metrics.overdue._value.get() > overdue
