"""What has its result is not performed again, however often it is delivered."""

from __future__ import annotations

import time
from typing import Any

import pytest
from msgspec.structs import replace

from millrace_agent_runner.adapters.repeats import Repeats
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.pull import Delivery
from millrace_shared.codec import encode
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
