import asyncio
from typing import Any

import pytest

from millrace_agent_runner import metrics
from millrace_agent_runner.adapters import jobs
from millrace_agent_runner.adapters import worker as worker_module
from millrace_agent_runner.errors import Deferred
from millrace_shared import subjects
from millrace_shared.bus.publisher import Publisher
from millrace_shared.bus.streams import work_consumer_name
from millrace_shared.codec import decode_fact, decode_inbox
from millrace_shared.ids import new_id
from millrace_shared.messages import PRIORITIES, WORK_KINDS, Deferral, StepStarted

ECHO = {"call": "echo"}
SLEEP = {"call": "millrace_agent_runner.functions.testing:sleep"}
BLOCK = {"call": "millrace_agent_runner.functions.testing:block"}


async def test_a_step_becomes_a_result_and_leaves_nothing_behind(
    bus: Any, start_worker: Any, step_factory: Any
) -> None:
    await start_worker()
    step = step_factory("python", ECHO, {"input": {"n": 1}}, item=3, attempt=2)
    await bus.offer(step)
    result = await bus.result_of(step)
    assert (result.step, result.item, result.attempt) == ("process", 3, 2)
    assert result.output.data == {"n": 1}
    assert result.error is None
    assert result.runner == "runner-1"
    assert result.finished_at >= result.started_at > 0
    await bus.has("WORK", 0)


async def test_a_failure_is_a_result_too(bus: Any, start_worker: Any, step_factory: Any) -> None:
    await start_worker()
    step = step_factory("python", {"call": "os:system"}, {"command": "true"})
    await bus.offer(step)
    error = (await bus.result_of(step)).error
    assert error.code == "function_not_allowed"
    assert not error.retryable
    await bus.has("WORK", 0)


async def test_an_attempt_that_gives_its_place_back_is_neither_done_nor_failed(
    bus: Any, start_worker: Any, step_factory: Any
) -> None:
    deferral = Deferral(until=1_900_000_000.0, reason="tokens", detail="3,200 tokens/min of a model, about 12 s")

    async def executor(_: Any) -> Any:
        raise Deferred(deferral)

    await start_worker(executor)
    step = step_factory("python", ECHO)
    await bus.offer(step)
    result = await bus.result_of(step)
    assert (result.deferred, result.error) == (deferral, None)
    await bus.has("WORK", 0)


async def test_nothing_is_acknowledged_before_its_result_is_stored(
    bus: Any, start_worker: Any, step_factory: Any
) -> None:
    gate = asyncio.Event()
    reached = asyncio.Event()

    class Gated(Publisher):
        async def publish_all(self, messages: Any) -> Any:
            reached.set()
            await gate.wait()
            return await super().publish_all(messages)

    await start_worker(publisher=Gated)
    step = step_factory("python", ECHO, {"input": 1})
    await bus.offer(step)
    await reached.wait()
    await bus.connection.flush()
    assert (await bus.count("INBOX"), await bus.count("WORK")) == (0, 1)
    gate.set()
    await bus.result_of(step)
    await bus.has("WORK", 0)


async def test_a_result_is_offered_until_the_bus_takes_it(bus: Any, start_worker: Any, step_factory: Any) -> None:
    from millrace_shared.errors import BusUnavailable

    refusals = iter([True, True])

    class Flaky(Publisher):
        async def publish_all(self, messages: Any) -> Any:
            if next(refusals, False):
                return [BusUnavailable("not now")] * len(messages)
            return await super().publish_all(messages)

    await start_worker(publisher=Flaky)
    step = step_factory("python", ECHO, {"input": 1})
    await bus.offer(step)
    assert (await bus.result_of(step)).output.data == 1
    await bus.has("WORK", 0)


async def test_credit_never_exceeds_the_slots(bus: Any, start_worker: Any, step_factory: Any) -> None:
    slots, running, most, committed, busy = 12, 0, 0, [], asyncio.Event()
    least = slots - len(WORK_KINDS) * len(PRIORITIES) + 1

    async def executor(_: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        committed.append(worker.committed)
        if running >= least:
            busy.set()
        await busy.wait()
        await asyncio.sleep(0)
        running -= 1

    worker = await start_worker(executor, slots=slots)
    steps = [(kind, priority) for kind in WORK_KINDS for priority in PRIORITIES for _ in range(25)]
    for kind, priority in steps:
        await bus.offer(step_factory(kind), lane=priority)
    await bus.has("INBOX", len(steps))
    assert max(committed) <= slots
    assert least <= most <= slots
    assert sum(one["num_redelivered"] for one in await bus.consumers()) == 0


async def test_a_flood_leaves_a_place_for_what_is_urgent(bus: Any, start_worker: Any, step_factory: Any) -> None:
    await start_worker(slots=10)
    await bus.offer(*(step_factory("python", SLEEP, {"seconds": 60}) for _ in range(30)), lane="low")
    urgent = step_factory("python", ECHO, {"input": "now"})
    await bus.offer(urgent, lane="high")
    assert (await bus.result_of(urgent)).output.data == "now"
    assert await bus.count("WORK") >= 29


async def test_a_step_that_takes_long_is_announced_and_kept_alive(
    bus: Any, start_worker: Any, step_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT_S", 0.2)
    await bus.ack_within(3.0)
    await start_worker()
    step = step_factory("python", SLEEP, {"seconds": 4, "result": "done"})
    await bus.offer(step)
    assert (await bus.result_of(step)).output.data == "done"
    assert sum(one["num_redelivered"] for one in await bus.consumers()) == 0
    assert await bus.count("INBOX") == 1
    await bus.has("TELEMETRY", 1)
    [stored] = await bus.stored("TELEMETRY", subjects.fact(step.execution_id, "step_started"))
    fact = decode_fact(stored.payload)
    assert isinstance(fact, StepStarted)
    assert (fact.step, fact.attempt) == ("process", 1)


async def test_a_redelivery_of_what_runs_here_is_not_performed_twice(
    bus: Any, start_worker: Any, step_factory: Any
) -> None:
    calls, gate = 0, asyncio.Event()

    async def executor(_: Any) -> Any:
        nonlocal calls
        calls += 1
        await gate.wait()
        return "once"

    await bus.ack_within(0.3)
    before = metrics.adopted._value.get()
    await start_worker(executor)
    step = step_factory("python")
    await bus.offer(step)

    async def adopted() -> bool:
        return metrics.adopted._value.get() > before + 1

    await bus.eventually(adopted, "a redelivery")
    gate.set()
    assert (await bus.result_of(step)).output.data == "once"
    await bus.has("WORK", 0)
    assert calls == 1


@pytest.mark.parametrize("spec", [SLEEP, BLOCK])
async def test_an_attempt_ends_at_its_time_limit(bus: Any, start_worker: Any, step_factory: Any, spec: Any) -> None:
    await start_worker()
    step = step_factory("python", spec, {"seconds": 1.5 if spec is BLOCK else 60}, timeout_s=0.2)
    await bus.offer(step)
    result = await bus.result_of(step)
    assert (result.error.category, result.error.retryable) == ("timeout", True)
    assert "0.2 s" in result.error.message
    late = step_factory("python", ECHO, {"input": 1}, deadline=1.0)
    await bus.offer(late)
    assert (await bus.result_of(late)).error.category == "timeout"


async def test_a_cancel_stops_what_runs_of_that_execution_only(bus: Any, start_worker: Any, step_factory: Any) -> None:
    started = asyncio.Semaphore(0)

    async def executor(attempt: Any) -> Any:
        started.release()
        await asyncio.sleep(attempt.input["seconds"])
        return "ended"

    await start_worker(executor)
    execution_id = new_id()
    mine = [step_factory("python", None, {"seconds": 60}, execution_id=execution_id, step=name) for name in "ab"]
    other = step_factory("python", None, {"seconds": 0.5})
    await bus.offer(*mine, other)
    for _ in range(3):
        await started.acquire()
    bus.connection.send(subjects.cancel_control(execution_id), b'{"attempts":["a@1"]}')
    assert (await bus.result_of(mine[0])).step == "a"
    bus.connection.send(subjects.cancel_control(execution_id), b"not json")
    bus.connection.send(subjects.cancel_control(execution_id), b"")
    await bus.has("INBOX", 3)
    stored = await bus.stored("INBOX", subjects.inbox(execution_id))
    assert [decode_inbox(one.payload).error.category for one in stored] == ["cancelled"] * 2
    assert (await bus.result_of(other)).output.data == "ended"
    await bus.has("WORK", 0)


async def test_what_was_cancelled_on_its_way_here_is_not_begun(
    bus: Any, start_worker: Any, step_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    async def executor(attempt: Any) -> Any:
        begun.append(attempt.step.step)

    worker = await start_worker(executor)
    ended, cancelled = new_id(), new_id()
    heard = worker._jobs._cancels

    async def both_heard() -> bool:
        bus.connection.send(subjects.cancel_control(ended), b"")  # again, until the worker listens: it is not stored
        bus.connection.send(subjects.cancel_control(cancelled), b'{"attempts":["a@1"]}')
        return len(heard) == 2

    await bus.eventually(both_heard, "the cancels")
    for execution_id in (ended, cancelled):
        step = step_factory("python", None, {}, execution_id=execution_id, step="a")
        await bus.offer(step)
        assert (await bus.result_of(step)).error.category == "cancelled"
    retried = step_factory("python", None, {}, execution_id=cancelled, step="a", attempt=2)
    await bus.offer(retried, step_factory("python", None, {}, execution_id=cancelled, step="tidy"))
    await bus.has("WORK", 0)
    assert sorted(begun) == ["a", "tidy"]
    monkeypatch.setattr(jobs, "CANCELS_REMEMBERED_S", -1.0)

    async def forgotten() -> bool:
        bus.connection.send(subjects.cancel_control(new_id()), b"")
        return not heard

    await bus.eventually(forgotten, "the end of what is remembered")


async def test_poison_goes_to_dead_tells_its_execution_and_work_goes_on(
    bus: Any, start_worker: Any, step_factory: Any
) -> None:
    await start_worker()
    poisoned, fine = step_factory(), step_factory("python", ECHO, {"input": 1})
    await bus.offer_raw(subjects.work("python", "normal", poisoned.execution_id, "load~2@3"), b"\xff{broken")
    await bus.offer_raw("work.python.normal.0.nobody.x", b"{}")
    await bus.offer(fine)
    assert (await bus.result_of(fine)).output.data == 1
    result = await bus.result_of(poisoned)
    assert (result.step, result.item, result.attempt) == ("load", 2, 3)
    assert result.error.code == "work_undeliverable"
    await bus.has("DEAD", 2)
    await bus.has("WORK", 0)


async def test_work_that_was_delivered_too_often_goes_to_dead(
    bus: Any, start_worker: Any, step_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "WORK_DELIVERIES_MAX", 2)
    step = step_factory("python", ECHO, {"input": 1})
    await bus.offer(step)
    consumer = work_consumer_name("python", "normal")
    message = asyncio.get_running_loop().create_future()
    inbox = bus.connection.new_inbox()
    await bus.connection.listen(inbox, lambda _s, reply, _h, _p: message.set_result(reply))
    bus.connection.send(f"$JS.API.CONSUMER.MSG.NEXT.WORK.{consumer}", b"1", inbox)
    bus.connection.send(await message, b"-NAK")
    await start_worker()
    assert (await bus.result_of(step)).error.code == "work_undeliverable"
    await bus.has("DEAD", 1)
    await bus.has("WORK", 0)


async def test_drain_lets_running_attempts_end_and_gives_back_the_rest(
    bus: Any, start_worker: Any, step_factory: Any
) -> None:
    started = asyncio.Event()

    async def executor(attempt: Any) -> Any:
        started.set()
        await asyncio.sleep(attempt.input)
        return "ended"

    worker = await start_worker(executor)
    running = step_factory("python", None, 0.5)
    await bus.offer(running)
    await started.wait()
    await worker.stop()
    assert (await bus.result_of(running)).output.data == "ended"
    after = step_factory("python", None, 0)
    await bus.offer(after)
    assert await bus.count("WORK") == 1
    await start_worker(executor)
    await bus.result_of(after)


async def test_what_outlasts_the_grace_is_given_back_at_once(bus: Any, start_worker: Any, step_factory: Any) -> None:
    started = asyncio.Event()

    async def endless(_: Any) -> Any:
        started.set()
        await asyncio.Event().wait()

    worker = await start_worker(endless, grace_s=0.0)
    step = step_factory("python", ECHO, {"input": "again"})
    await bus.offer(step)
    await started.wait()
    await worker.stop()
    assert await bus.count("INBOX") == 0
    await start_worker()  # long before the acknowledgement wait of 15 s is over
    assert (await bus.result_of(step)).output.data == "again"


async def test_a_step_that_raises_what_ends_tasks_fails_alone(bus: Any, start_worker: Any, step_factory: Any) -> None:
    async def executor(attempt: Any) -> Any:
        if attempt.input == "bad":
            raise asyncio.CancelledError
        return "fine"

    await start_worker(executor)
    bad, fine = step_factory("python", None, "bad"), step_factory("python", None, "good")
    await bus.offer(bad, fine)
    assert (await bus.result_of(bad)).error is not None
    assert (await bus.result_of(fine)).output.data == "fine"


async def test_many_steps_each_have_one_result(bus: Any, start_worker: Any, step_factory: Any) -> None:
    await start_worker(slots=32)
    steps = [step_factory("python", ECHO, {"input": number}) for number in range(2_000)]
    publisher = await Publisher(bus.connection).start()
    await publisher.publish_in_order([bus.message(step) for step in steps])
    await bus.has("INBOX", len(steps))
    await bus.has("WORK", 0)
    assert (await bus.result_of(steps[7])).output.data == 7
