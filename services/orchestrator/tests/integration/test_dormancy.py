"""Executions that wait leave memory and give back their leases, and nothing that they wait for is lost."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from millrace_orchestrator.adapters.inbox import Arrival, active_starts
from millrace_orchestrator.adapters.timers import scheduled
from millrace_orchestrator.domain.dormancy import Rhythm
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import encode
from millrace_shared.ids import partition_of
from millrace_shared.messages import (
    LOG_VERSION,
    SignalRequest,
    StepCompleted,
    StepScheduled,
    StepWaiting,
    TimerFired,
    Transition,
    VerdictRequest,
)
from millrace_shared.values import Payload

PY = {"python": "m:f"}
APPROVAL = {"ok": {"approval": {"message": "Go on?", "deadline": "1h"}}, "a": {**PY, "needs": ["ok"]}}


async def light_sleeper(bus: Any, start_engine: Any, horizon_s: float) -> Any:
    """Start an engine that looks at leases again all the time, and puts to sleep who is quiet for a moment."""
    engine = await start_engine(orchestrator_timer_horizon_s=horizon_s)
    engine._dormitory._rhythm = Rhythm(horizon_s, asleep_after_s=0.3, awake_after_s=0.1)
    await bus.redeliver_after(0.2)
    return engine


async def start(bus: Any, start_engine: Any, steps: dict[str, Any], horizon_s: float = 60.0) -> tuple[Any, str]:
    engine = await light_sleeper(bus, start_engine, horizon_s)
    return engine, await bus.start(await bus.define(steps, limits={"timeout": "1d"}))


async def asleep(bus: Any, execution: str) -> None:
    """Wait until no lease on the execution is left."""
    await bus.event(execution, StepWaiting)
    await bus.unacknowledged(execution, 0)


async def schedules(bus: Any, execution: str) -> set[str]:
    stored = await bus.stored("TIMERS", subjects.timer_set(execution, "*"))
    return {one.subject.rsplit(".", 1)[1].partition("-")[0] for one in stored}


def verdict(execution: str) -> VerdictRequest:
    return VerdictRequest(execution, "v1", "ok", approved=True, requested_by="somebody")


async def test_who_waits_for_a_verdict_is_forgotten_and_woken_by_it(bus: Any, start_engine: Any) -> None:
    engine, execution = await start(bus, start_engine, APPROVAL)
    await asleep(bus, execution)
    assert execution not in engine._executions
    assert execution not in engine._leases
    assert execution not in engine.timers._of_execution
    assert await schedules(bus, execution) == {"wait", "execution_timeout"}

    await bus.send(execution, verdict(execution))
    await bus.has_queued(execution, "a@1")
    await bus.unacknowledged(execution, 1)  # the new lease
    assert execution in engine.timers._of_execution, "its deadline is watched in memory again"
    assert await schedules(bus, execution) == set()
    await bus.perform(execution, "a")
    assert (await bus.ended(execution)).status == "completed"
    await bus.unacknowledged(execution, 0)


async def test_it_is_woken_after_everybody_who_knew_of_it_was_killed(bus: Any, start_process: Any) -> None:
    first = await start_process()
    await bus.redeliver_after(1.0)
    execution = await bus.start(await bus.define(APPROVAL, limits={"timeout": "1d"}))
    await bus.event(execution, StepWaiting)
    first.send(signal.SIGKILL)
    await first.exit_status()
    await start_process()
    await bus.send(execution, verdict(execution))
    await bus.perform(execution, "a")
    assert (await bus.ended(execution)).status == "completed"
    await bus.unacknowledged(execution, 0)


async def test_a_timer_wakes_it(bus: Any, start_engine: Any) -> None:
    steps = {"w": {"wait": {"delay": "8s"}}, "a": {**PY, "needs": ["w"]}}
    _, execution = await start(bus, start_engine, steps, horizon_s=1.0)
    await asleep(bus, execution)
    await bus.perform(execution, "a")
    assert (await bus.ended(execution)).status == "completed"
    await bus.unacknowledged(execution, 0)


async def test_its_deadline_ends_it(bus: Any, start_engine: Any) -> None:
    await light_sleeper(bus, start_engine, 1.0)
    steps = {"w": {"wait": {"signal": "never"}}}
    execution = await bus.start(await bus.define(steps, limits={"timeout": "8s"}))
    await asleep(bus, execution)
    assert await schedules(bus, execution) == {"execution_timeout"}
    assert (await bus.ended(execution)).status == "timeout"
    await bus.unacknowledged(execution, 0)


async def test_a_signal_that_nobody_waits_for_yet_is_kept_and_it_sleeps_again(bus: Any, start_engine: Any) -> None:
    steps = {**APPROVAL, "b": {"wait": {"signal": "later"}, "needs": ["a"]}}
    _, execution = await start(bus, start_engine, steps)
    await asleep(bus, execution)
    await bus.send(execution, SignalRequest(execution, "s1", "later"))
    await bus.eventually(lambda: _version(bus, execution, 2), "the signal to be kept")
    await bus.unacknowledged(execution, 0)
    assert await schedules(bus, execution) == {"wait", "execution_timeout"}
    await bus.send(execution, verdict(execution))
    await bus.perform(execution, "a")
    assert (await bus.ended(execution)).status == "completed"


async def _version(bus: Any, execution: str, version: int) -> bool:
    return len(await bus.log(execution)) >= version


async def test_a_parent_sleeps_while_its_child_waits_and_is_woken_by_its_end(bus: Any, start_engine: Any) -> None:
    steps = {"team": {"group": {"steps": {"ok": APPROVAL["ok"]}}}, "a": {**PY, "needs": ["team"]}}
    engine, execution = await start(bus, start_engine, steps)
    await bus.eventually(lambda: _children(bus), "the child")
    child = (await _children(bus))[0]
    await asleep(bus, child)
    await bus.unacknowledged(execution, 0)
    assert not {execution, child} & set(engine._executions)
    await bus.send(child, verdict(child))
    await bus.perform(execution, "a")
    assert (await bus.ended(execution)).status == "completed"


async def _children(bus: Any) -> list[str]:
    starts = [one for one in await bus.stored("INBOX") if b'"parent"' in one.payload and b'"start"' in one.payload]
    return [subjects.execution_id_of(one.subject) for one in starts]


async def test_what_runs_stays_awake(bus: Any, start_engine: Any) -> None:
    steps = {"ok": APPROVAL["ok"], "a": PY}
    engine, execution = await start(bus, start_engine, steps)
    work = await bus.take(execution, "a")

    async def looked_at_often() -> bool:
        return bool((await bus.consumer(execution))["delivered"]["consumer_seq"] > 6)

    await bus.eventually(looked_at_often, "the lease to come again and again")
    assert execution in engine._executions
    await bus.unacknowledged(execution, 1)
    await bus.send(execution, bus.result(work, 1))
    await bus.event(execution, StepCompleted)
    await asleep(bus, execution)


async def test_a_message_whose_first_try_ended_after_the_commit_puts_the_lease(
    bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, execution = await start(bus, start_engine, APPROVAL)
    await asleep(bus, execution)
    put, failures = engine._leases.put, iter((RuntimeError("planted: the process dies here"),))

    async def dying(requests: Any) -> Any:
        if requests:
            for failure in failures:
                raise failure
        return await put(requests)

    monkeypatch.setattr(engine._leases, "put", dying)
    await bus.send(execution, verdict(execution))
    await bus.has_queued(execution, "a@1")
    await bus.unacknowledged(execution, 1)
    await bus.lose_work()
    await bus.has_queued(execution, "a@1")  # since it has a lease, somebody looks at it again


async def test_a_schedule_has_the_rest_done_of_what_a_timer_in_memory_began(bus: Any, start_engine: Any) -> None:
    """Somebody remembered the sleeper, woke it when the time came, and died after the commit."""
    _, execution = await start(bus, start_engine, APPROVAL)
    await asleep(bus, execution)
    (waiting,) = await bus.log(execution)
    begun = (StepCompleted("ok", output=Payload({"approved": True})), StepScheduled("a", 1))
    committed = Transition(LOG_VERSION, execution, waiting.version + 1, time.time(), begun)
    await bus.publisher.publish(Outgoing(subjects.log(execution), encode(committed)))

    await bus.send(execution, TimerFired(execution, "wait", "ok"))
    await bus.has_queued(execution, "a@1")
    await bus.unacknowledged(execution, 1)
    await bus.perform(execution, "a")
    assert (await bus.ended(execution)).status == "completed"


async def test_who_wakes_one_late_leaves_alone_what_was_scheduled_since(
    bus: Any, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, execution = await start(bus, start_engine, APPROVAL)
    await asleep(bus, execution)
    put = engine._leases.put

    async def stopped_afterwards(requests: Any) -> Any:
        result = await put(requests)
        if requests:  # meanwhile it was moved on, and fell asleep again
            await bus.publisher.publish(scheduled(time.time() + 3600, TimerFired(execution, "wait", "later")))
        return result

    monkeypatch.setattr(engine._leases, "put", stopped_afterwards)
    await bus.send(execution, verdict(execution))
    await bus.has_queued(execution, "a@1")
    (kept,) = await bus.stored("TIMERS", subjects.timer_set(execution, "*"))
    assert "later" in kept.subject


async def test_a_scan_that_finds_a_start_of_one_asleep_leaves_it_asleep(bus: Any, start_engine: Any) -> None:
    engine, execution = await start(bus, start_engine, APPROVAL)
    await asleep(bus, execution)
    (start_,) = await bus.stored("INBOX", subjects.start(execution))
    engine.arrive(Arrival(start_.subject, start_.payload, again=True))
    other = await bus.start(await bus.define({"t": {"transform": 1}}))
    await bus.ended(other)
    assert execution not in engine._executions
    assert execution not in engine.timers._of_execution


async def test_a_scan_leaves_awake_whose_timer_is_due_before_its_lease_comes_again(bus: Any, start_engine: Any) -> None:
    engine = await light_sleeper(bus, start_engine, horizon_s=1)
    await bus.redeliver_after(3600)
    execution = await bus.start(await bus.define({"ok": {"approval": {"message": "?"}}}, limits={"timeout": 5}))
    await bus.event(execution, StepWaiting)
    before = engine._executions[execution].changed_at
    await bus.eventually(lambda: _now_after(before + 0.5), "it has been quiet for long enough to be put to sleep")
    (start_,) = await bus.stored("INBOX", subjects.start(execution))
    engine.arrive(Arrival(start_.subject, start_.payload, again=True))
    assert (await bus.ended(execution)).status == "timeout"


async def test_the_next_scan_does_not_see_it(bus: Any, start_engine: Any, stop_engine: Any) -> None:
    engine, execution = await start(bus, start_engine, APPROVAL)
    await asleep(bus, execution)
    await stop_engine(engine)
    assert [one async for one in active_starts(bus.connection, partition_of(execution))] == []


async def test_a_timer_that_fires_too_early_for_one_asleep_is_not_lost(bus: Any, start_engine: Any) -> None:
    engine, execution = await start(bus, start_engine, APPROVAL)
    await asleep(bus, execution)
    await bus.send(execution, TimerFired(execution, "wait", "ok"))
    await bus.eventually(lambda: _stored_starts(bus, execution, 2), "a new lease, for there is something to remember")
    await bus.unacknowledged(execution, 0)
    assert await schedules(bus, execution) == {"wait", "execution_timeout"}
    assert execution not in engine._executions


async def _stored_starts(bus: Any, execution: str, count: int) -> bool:
    return len(await bus.stored("INBOX", subjects.start(execution))) >= count


async def _now_after(moment: float) -> bool:
    return time.time() > moment
