"""Runners that die, stand still, and wake up: others have their work, and what wakes up changes nothing."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from millrace_agent_runner import metrics
from millrace_agent_runner.adapters import pulse
from millrace_agent_runner.adapters.jobs import HEARTBEAT_S
from millrace_agent_runner.domain.credit import STANDING
from millrace_agent_runner.executors.agent.executor import AgentExecutor
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.streams import WORK_ACK_WAIT_S
from millrace_shared.codec import decode_fact, decode_inbox, encode
from millrace_shared.ids import attempt_key
from millrace_shared.messages import StepStarted

SLEEP = {"call": "millrace_agent_runner.functions.testing:sleep"}


class Slow:
    """A provider that never answers, and notices when the caller hangs up."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.hung_up = asyncio.Semaphore(0)
        self.port = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked.release()
        while await reader.read(65_536):
            pass
        self.hung_up.release()
        writer.close()


@pytest.fixture
async def slow() -> AsyncIterator[Slow]:
    provider = Slow()
    server = await asyncio.start_server(provider, "127.0.0.1", 0)
    provider.port = server.sockets[0].getsockname()[1]
    yield provider
    server.close()


@pytest.fixture
async def agent_executor(slow: Slow, python_executor: Any, journals: Any) -> AsyncIterator[AgentExecutor]:
    class Unheard:
        def llm_call(self, fact: Any) -> None: ...
        def token_delta(self, fact: Any) -> None: ...

    http = HttpExecutor(())
    agents = AgentExecutor(Unheard(), journals, http, python_executor, {}, f"http://127.0.0.1:{slow.port}/v1")
    yield agents
    await agents.close()
    await http.close()


@pytest.fixture
def asking(step_factory: Any) -> Any:
    """A step that asks the model."""
    agent = {"name": "writer", "model": "openai:mock-1", "limits": {"max_iterations": 3}}
    return step_factory("agent", {"agent": agent}, {"prompt": "Hello?"})


async def started(bus: Any, step: Any) -> list[StepStarted]:
    stored = await bus.stored("TELEMETRY", subjects.fact(step.execution_id, "step_started"))
    return [fact for one in stored if isinstance(fact := decode_fact(one.payload), StepStarted)]


async def results(bus: Any, step: Any) -> list[Any]:
    return [decode_inbox(one.payload) for one in await bus.stored("INBOX", subjects.inbox(step.execution_id))]


def test_three_heartbeats_may_be_late_before_an_attempt_is_lost_and_it_is_within_five_seconds() -> None:
    assert 3 * HEARTBEAT_S < WORK_ACK_WAIT_S < 5


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("lane", ["normal", "normal-crowded"])
async def test_what_a_runner_held_is_done_by_another(
    bus: Any, start_runner: Any, start_worker: Any, step_factory: Any, number: signal.Signals, lane: Any
) -> None:
    runner = await start_runner()
    await runner.line("is ready")
    step = step_factory("python", SLEEP, {"seconds": 3600})
    await bus.offer(step, lane=lane)
    await bus.has("TELEMETRY", 1)
    runner.send(number)

    async def done(_attempt: Any) -> str:
        return "done"

    await start_worker(done)
    result = await bus.result_of(step)
    assert (result.output.data, result.attempt, result.runner) == ("done", 1, "runner-1")
    await bus.has("WORK", 0)


async def test_a_runner_that_wakes_up_stops_what_another_has_taken_over(
    bus: Any, start_runner: Any, start_worker: Any, step_factory: Any
) -> None:
    runner = await start_runner()
    await runner.line("is ready")
    step = step_factory("python", SLEEP, {"seconds": 3600})
    await bus.offer(step)
    await bus.has("TELEMETRY", 1)
    runner.send(signal.SIGSTOP)
    worker = await start_worker()

    async def taken_over() -> bool:
        return len(await started(bus, step)) == 2

    await bus.eventually(taken_over, "another runner")
    runner.send(signal.SIGCONT)
    await runner.line("another runner has it")
    assert not await results(bus, step)
    assert {fact.runner for fact in await started(bus, step)} > {"runner-1"}
    bus.connection.send(subjects.cancel_control(step.execution_id), b"")
    assert (await bus.result_of(step)).error.category == "cancelled"
    await bus.has("WORK", 0)
    await worker.stop()
    assert len(await results(bus, step)) == 1


@pytest.mark.parametrize("is_over", [True, False])
async def test_what_was_delivered_to_a_runner_that_stood_still_is_not_performed_when_it_wakes_up(
    bus: Any, start_runner: Any, start_worker: Any, step_factory: Any, metrics_of: Any, is_over: bool
) -> None:
    runner = await start_runner()
    port = await runner.port()
    await runner.line("is ready")

    async def waiting_for_work() -> bool:
        return sum(one["num_waiting"] for one in await bus.consumers()) == STANDING

    await bus.eventually(waiting_for_work, "the standing requests")
    runner.send(signal.SIGSTOP)
    step = step_factory("python", SLEEP, {"seconds": 0.2 if is_over else 3600, "result": "by another"})
    await bus.offer(step)

    async def delivered() -> bool:
        return sum(one["num_ack_pending"] for one in await bus.consumers()) == 1

    await bus.eventually(delivered, "the delivery to the one that stands still")
    await start_worker(grace_s=0.0)

    async def begun() -> bool:
        return len(await started(bus, step)) == 1 and (not is_over or bool(await results(bus, step)))

    await bus.eventually(begun, "another runner")
    runner.send(signal.SIGCONT)
    counter = "millrace_runner_repeats_dropped_total" if is_over else "millrace_runner_attempts_lost_total"

    async def noticed() -> bool:
        return f"{counter} 1.0" in await metrics_of(port)

    await bus.eventually(noticed, counter)
    assert len(await started(bus, step)) == 1
    assert len(await results(bus, step)) == is_over


async def test_a_takeover_stops_the_call_of_the_one_that_was_slow(
    bus: Any, start_worker: Any, asking: Any, slow: Slow, agent_executor: Any
) -> None:
    before = metrics.lost._value.get()
    await start_worker(agent_executor, grace_s=0.0)
    await bus.offer(asking)
    await slow.asked.acquire()
    taken = {"attempt": attempt_key(asking.step, asking.item, asking.attempt), "delivery": 1}
    control = subjects.taken_control(asking.execution_id)
    for payload in (b"not json", encode(taken), encode({**taken, "attempt": "process@7", "delivery": 2})):
        bus.connection.send(control, payload)  # not one, our own delivery, another attempt
    await bus.connection.flush()
    assert slow.hung_up.locked()
    bus.connection.send(control, encode({**taken, "delivery": 2}))
    async with asyncio.timeout(60):
        await slow.hung_up.acquire()

    async def given_up() -> bool:
        return bool(metrics.lost._value.get() == before + 1)

    await bus.eventually(given_up, "the end of the attempt")
    assert not await results(bus, asking)
    assert await bus.count("WORK") == 1, "only the one that has it may acknowledge it"


async def test_a_runner_that_was_cut_off_stops_what_another_has_begun_meanwhile(
    bus: Any, start_worker: Any, step_factory: Any
) -> None:
    """What others tell in the meantime is not stored, so a new connection brings nothing of it."""
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def endless(_attempt: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    worker = await start_worker(endless, grace_s=0.0)
    step = step_factory("python")
    await bus.offer(step)
    await begun.wait()
    fact = StepStarted(step.execution_id, step.step, step.attempt, time.time() + 1.0, step.item, "another")
    publisher = await Publisher(bus.connection).start()
    await publisher.publish(Outgoing(subjects.fact(step.execution_id, "step_started"), encode(fact)))
    worker._connection.send("NONSENSE\r\nNONSENSE", b"")  # the server hangs up
    async with asyncio.timeout(60):
        await stopped.wait()
    assert not await results(bus, step)


async def test_a_cancel_stops_a_call_to_a_model(
    bus: Any, start_worker: Any, asking: Any, slow: Slow, agent_executor: Any
) -> None:
    await start_worker(agent_executor, grace_s=0.0)
    await bus.offer(asking)
    await slow.asked.acquire()
    bus.connection.send(subjects.cancel_control(asking.execution_id), b"")
    async with asyncio.timeout(60):
        await slow.hung_up.acquire()
    result = await bus.result_of(asking)
    assert (result.error.category, result.usage.calls) == ("cancelled", 1)


async def test_standing_still_is_noticed_until_everything_that_came_meanwhile_is_read(bus: Any) -> None:
    one = pulse.Pulse(bus.connection)
    one.start()
    assert one.stopped_at() is None
    one._beat -= WORK_ACK_WAIT_S  # as if the clock had gone on without us
    before = one._beat_wall
    assert one.stopped_at() == before
    assert before <= time.time()

    async def caught_up() -> bool:
        return one.stopped_at() is None

    await bus.eventually(caught_up, "the end of the doubt")
    await one.stop()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="the clock that goes on is Linux's")
async def test_a_machine_that_was_suspended_is_noticed(bus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic clock of Linux stands still meanwhile."""
    one, read = pulse.Pulse(bus.connection), time.clock_gettime
    one.start()
    assert one.stopped_at() is None
    monkeypatch.setattr(
        time, "clock_gettime", lambda clock: read(clock) + (WORK_ACK_WAIT_S if clock == time.CLOCK_BOOTTIME else 0.0)
    )
    assert one.stopped_at() is not None
    await one.stop()
