"""What has its result is not performed again, however often it is delivered."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from msgspec.structs import replace

from millrace_agent_runner.adapters import worker as worker_module
from millrace_agent_runner.adapters.repeats import Repeats
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.pull import Delivery
from millrace_shared.bus.streams import WORK_DELIVERIES_MAX
from millrace_shared.codec import encode
from millrace_shared.errors import BusUnavailable
from millrace_shared.messages import (
    LOG_VERSION,
    ErrorInfo,
    ExecutionFinished,
    StepCancelled,
    StepCompleted,
    StepResult,
    StepRetryScheduled,
    Transition,
)


def transition(step: Any, *events: Any) -> Outgoing:
    payload = encode(Transition(LOG_VERSION, step.execution_id, 1, time.time(), events))
    return Outgoing(subjects.log(step.execution_id), payload)


def result(step: Any, attempt: int) -> Outgoing:
    message = StepResult(step.execution_id, step.step, attempt, 0.0, 0.0, item=step.item)
    return Outgoing(subjects.inbox(step.execution_id), encode(message))


OVER = {
    "its result is in the inbox": lambda step: result(step, step.attempt),
    "it has completed": lambda step: transition(step, StepCompleted(step.step, step.attempt, item=step.item)),
    "its retry is planned": lambda step: transition(
        step, StepRetryScheduled(step.step, step.attempt, 0.0, ErrorInfo("x", "internal", "x"), item=step.item)
    ),
    "it was cancelled": lambda step: transition(step, StepCancelled(step.step, item=step.item)),
    "its execution has ended": lambda step: transition(step, ExecutionFinished("failed")),
}


class Counting:
    """An executor that counts."""

    def __init__(self) -> None:
        self.performed: list[str] = []

    async def __call__(self, attempt: Any) -> Any:
        self.performed.append(attempt.step.execution_id)


@pytest.mark.parametrize("why", OVER)
async def test_queued_work_that_is_over_is_dropped(bus: Any, start_worker: Any, step_factory: Any, why: str) -> None:
    over, other = step_factory("python"), step_factory("python")
    publisher = await Publisher(bus.connection).start()
    await publisher.publish(OVER[why](over))
    await bus.offer(over, other)
    executor = Counting()
    await start_worker(executor)
    await bus.result_of(other)
    await bus.has("WORK", 0)
    assert executor.performed == [other.execution_id]


async def test_a_result_of_another_attempt_or_item_does_not_count(
    bus: Any, start_worker: Any, step_factory: Any
) -> None:
    step = step_factory("python")
    publisher = await Publisher(bus.connection).start()
    await publisher.publish(result(step, step.attempt + 1))
    await bus.offer(step)
    executor = Counting()
    await start_worker(executor)
    await bus.has("WORK", 0)
    assert executor.performed == [step.execution_id]


async def test_only_what_may_be_a_repeat_is_looked_up(bus: Any, step_factory: Any) -> None:
    step = step_factory("python")
    await bus.offer(step, step_factory("python"))
    repeats = Repeats(bus.connection)
    repeats.start()

    def delivery(sequence: int, deliveries: int) -> Delivery:
        return Delivery(bus.connection, "work", b"", f"$JS.ACK.WORK.c.{deliveries}.{sequence}.1.0.0")

    async def known() -> bool:
        return not repeats.may_be(delivery(3, 1), step)

    assert repeats.may_be(delivery(3, 1), step), "before the server has answered, everything may be one"
    await bus.eventually(known, "the end of WORK")
    assert [repeats.may_be(delivery(sequence, 1), step) for sequence in (1, 2, 3)] == [True, True, False]
    assert repeats.may_be(delivery(3, 2), step)
    assert repeats.may_be(delivery(3, 1), replace(step, again=True))
    repeats.stop()


async def test_while_nobody_answers_the_look_up_nothing_is_given_back_or_given_up(
    bus: Any, start_worker: Any, step_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "LOOK_AGAIN_S", 0.01)
    executor, tries, answer = Counting(), 0, Repeats.is_over

    async def is_over(self: Repeats, step: Any) -> bool:
        nonlocal tries
        tries += 1
        if tries <= WORK_DELIVERIES_MAX + 1:
            raise BusUnavailable("no leader yet")
        return await answer(self, step)

    monkeypatch.setattr(Repeats, "is_over", is_over)
    await start_worker(executor)
    step = replace(step_factory("python"), again=True)
    await bus.offer(step)
    assert (await bus.result_of(step)).error is None
    assert executor.performed == [step.execution_id]
    assert sum(one["num_redelivered"] for one in await bus.consumers()) == 0


async def test_a_log_of_a_later_version_does_not_keep_work_from_being_done(
    bus: Any, start_worker: Any, step_factory: Any
) -> None:
    executor, step = Counting(), replace(step_factory("python"), again=True)
    publisher = await Publisher(bus.connection).start()
    await publisher.publish(Outgoing(subjects.log(step.execution_id), encode({"v": 99})))
    await start_worker(executor)
    await bus.offer(step)
    assert (await bus.result_of(step)).error is None
    assert executor.performed == [step.execution_id]


async def test_a_cancel_that_comes_while_work_is_looked_up_holds(
    bus: Any, start_worker: Any, step_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, looking, answer = Counting(), asyncio.Event(), asyncio.Event()

    async def is_over(_self: Repeats, _step: Any) -> bool:
        looking.set()
        await answer.wait()
        return False

    monkeypatch.setattr(Repeats, "is_over", is_over)
    worker = await start_worker(executor)
    step = replace(step_factory("python"), again=True)
    await bus.offer(step)
    await looking.wait()
    bus.connection.send(subjects.cancel_control(step.execution_id), b"")
    await bus.connection.flush()
    await worker._connection.flush()  # the worker has read what came before the answer
    answer.set()
    assert (await bus.result_of(step)).error.category == "cancelled"
    assert executor.performed == []
