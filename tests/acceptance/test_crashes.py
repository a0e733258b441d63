"""`kill -9` of each part in the middle of two hundred executions: all finish, and the tables say what the log says."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import asyncpg
import pytest

from millrace_shared.bus.connection import connect
from millrace_shared.bus.log_reader import read_log
from millrace_shared.codec import decode_transition
from millrace_shared.messages import ExecutionFinished, StepCompleted, StepScheduled, Transition
from millrace_shared.testing.waiting import until

EXECUTIONS = 200
STEPS = 6
NAP_S = 0.1
DONE_BEFORE = EXECUTIONS
"""Steps that are done when the part is killed. The others, five times as many, take three seconds at the least."""
FUNCTION = "millrace_agent_runner.functions.testing:sleep"
PARTS = ("orchestrator", "agent-runner", "telemetry", "nats", "postgres")


def workflow() -> dict[str, Any]:
    steps = {
        f"s{index}": {
            "python": FUNCTION,
            "input": {"seconds": NAP_S},
            "needs": [f"s{index - 1}"] if index else [],
            "retry": {"max_attempts": 5, "initial": "100ms"},
        }
        for index in range(STEPS)
    }
    return {"name": "crash", "limits": {"timeout": "5m"}, "steps": steps}


@pytest.mark.parametrize("part", PARTS)
def test_everything_finishes_although_a_part_is_killed(millrace: Any, part: str) -> None:
    name = millrace.save(workflow())
    before_all = length(millrace)
    # The runner stands still while we do what takes a machine as long as it likes: start them, and read.
    millrace.stack.suspend("agent-runner")
    ids = millrace.start_many(name, EXECUTIONS)
    until(lambda: length(millrace) >= before_all + EXECUTIONS, "all have begun")
    millrace.stack.resume("agent-runner")
    until(lambda: length(millrace) >= before_all + EXECUTIONS + DONE_BEFORE, "some steps are done")
    millrace.stack.suspend("agent-runner")
    before = millrace.stack.run(logs_of(millrace, ids))
    assert any(not ended(log) for log in before.values()), "all had ended before the kill"
    millrace.stack.resume("agent-runner")
    millrace.stack.kill(part)
    millrace.stack.wait_ready(part)
    details = millrace.ended_all(ids, deadline_s=150)
    assert Counter(detail["status"] for detail in details) == {"completed": EXECUTIONS}
    after = millrace.stack.run(logs_of(millrace, ids))
    for execution_id in ids:
        assert_exactly_once(after[execution_id])
        assert after[execution_id][: len(before[execution_id])] == before[execution_id], "a committed result changed"
    millrace.stack.run(projection_equals_log(millrace, after))


def length(millrace: Any) -> int:
    """Return how many transitions the log has, of all executions."""

    async def read() -> int:
        connection = await connect(millrace.stack.nats_url, "test")
        try:
            stream = await connection.jetstream_api("STREAM.INFO.EVENTS")
            return int(stream["state"]["messages"])
        finally:
            await connection.close()

    counted: int = millrace.stack.run(read())
    return counted


def ended(log: list[Transition]) -> bool:
    return bool(log) and isinstance(log[-1].events[-1], ExecutionFinished)


def assert_exactly_once(log: list[Transition]) -> None:
    events = [event for transition in log for event in transition.events]
    assert [transition.version for transition in log] == list(range(1, len(log) + 1))
    completed = Counter(event.step for event in events if isinstance(event, StepCompleted))
    assert completed == Counter({f"s{index}": 1 for index in range(STEPS)})
    attempts = Counter((event.step, event.attempt) for event in events if isinstance(event, StepScheduled))
    assert set(attempts.values()) == {1}
    assert sum(isinstance(event, ExecutionFinished) for event in events) == 1


async def logs_of(millrace: Any, ids: list[str]) -> dict[str, list[Transition]]:
    connection = await connect(millrace.stack.nats_url, "test")
    try:
        return {
            execution_id: [decode_transition(stored.payload) for stored in await read_log(connection, execution_id)]
            for execution_id in ids
        }
    finally:
        await connection.close()


async def projection_equals_log(millrace: Any, logs: dict[str, list[Transition]]) -> None:
    """Wait until the projection has caught up; then its counts must be those of the log."""
    events = [event for log in logs.values() for transition in log for event in transition.events]
    expected = {
        "executions": len(logs),
        "steps": sum(isinstance(event, StepCompleted) for event in events),
        "transitions": sum(map(len, logs.values())),
    }
    connection = await asyncpg.connect(millrace.stack.database_url)
    try:
        deadline = time.monotonic() + 90
        while True:
            found = {
                "executions": await connection.fetchval(
                    "SELECT count(*) FROM telemetry.executions WHERE id = ANY($1::text[]) AND status = 'completed'",
                    list(logs),
                ),
                "steps": await connection.fetchval(
                    "SELECT count(*) FROM telemetry.steps WHERE execution_id = ANY($1::text[]) "
                    "AND status = 'completed'",
                    list(logs),
                ),
                "transitions": await connection.fetchval(
                    "SELECT count(*) FROM telemetry.transitions WHERE execution_id = ANY($1::text[])", list(logs)
                ),
            }
            if found == expected:
                return
            assert time.monotonic() < deadline, f"the projection has {found}, the log {expected}"
            await connection.fetchval("SELECT pg_sleep(0.05)")
    finally:
        await connection.close()
