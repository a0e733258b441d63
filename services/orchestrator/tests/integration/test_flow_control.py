"""Executions at gates, with the whole orchestrator: what the log says, and two processes of which one is killed."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from millrace_shared import subjects
from millrace_shared.codec import decode_transition
from millrace_shared.gates import decode_gate
from millrace_shared.messages import (
    CancelRequest,
    Event,
    ExecutionAdmitted,
    ExecutionFinished,
    ExecutionHeld,
    ExecutionStarted,
    StepScheduled,
)

PY = {"python": "m:f"}
LIMIT = 3


async def all_events(bus: Any) -> list[tuple[str, Event]]:
    """The events of all executions, in the order in which they were stored."""
    return [
        (subjects.execution_id_of(stored.subject), event)
        for stored in await bus.stored("EVENTS")
        for event in decode_transition(stored.payload).events
    ]


async def most_inside(bus: Any) -> int:
    """How many executions had been admitted and had not ended, at the most."""
    inside: set[str] = set()
    most = 0
    for execution_id, event in await all_events(bus):
        if isinstance(event, ExecutionAdmitted):
            inside.add(execution_id)
        elif isinstance(event, ExecutionFinished):
            inside.discard(execution_id)
        most = max(most, len(inside))
    return most


async def test_the_log_says_when_an_execution_was_held_and_admitted(bus: Any, start_engine: Any) -> None:
    await start_engine()
    rules = {"throttle": {"limit": 5, "per": "1m"}, "concurrency": {"limit": 1, "key": "${{ inputs.who }}"}}
    definition = await bus.define({"a": PY}, inputs={"who": {"type": "string"}}, **rules)
    execution = await bus.start(definition, {"who": "me"})
    await bus.perform(execution, "a")
    await bus.ended(execution)
    events = await bus.events(execution)
    assert [type(event) for event in events[:6]] == [
        ExecutionStarted,
        ExecutionHeld,
        ExecutionAdmitted,
        ExecutionHeld,
        ExecutionAdmitted,
        StepScheduled,
    ]
    assert [(event.rule, event.key) for event in events if isinstance(event, ExecutionHeld)] == [
        ("throttle", ""),
        ("concurrency", "me"),
    ]

    async def has_left() -> bool:
        gates = [decode_gate(stored.payload) for stored in await bus.stored("GATES", "gate.*.*.state")]
        return [document.state.inside for document in gates] == [(), ()]

    await bus.eventually(has_left, "it leaves both gates")


async def test_a_workflow_without_rules_leaves_nothing_at_any_gate(bus: Any, start_engine: Any) -> None:
    await start_engine()
    execution = await bus.start(await bus.define({"a": PY}))
    await bus.perform(execution, "a")
    await bus.ended(execution)
    assert await bus.stored("GATES") == []


async def test_one_that_is_cancelled_at_a_gate_begins_nothing(bus: Any, start_engine: Any) -> None:
    await start_engine()
    definition = await bus.define({"a": PY, "b": {**PY, "run": "always"}}, concurrency={"limit": 1})
    first = await bus.start(definition)
    await bus.event(first, ExecutionAdmitted)
    second = await bus.start(definition)
    await bus.event(second, ExecutionHeld)
    await bus.send(second, CancelRequest(second, "c1", "enough"))
    assert (await bus.ended(second)).status == "cancelled"
    assert not [event for event in await bus.events(second) if isinstance(event, StepScheduled)]
    for step in ("a", "b"):
        await bus.perform(first, step)
    third = await bus.start(definition)
    await bus.event(third, ExecutionAdmitted)


async def test_a_killed_process_leaves_no_gate_closed_and_no_place_taken_twice(bus: Any, start_process: Any) -> None:
    first = await start_process()
    await start_process()
    definition = await bus.define({"a": PY}, concurrency={"limit": LIMIT})
    waiting = {await bus.start(definition) for _ in range(20)}
    ended = 0
    while waiting:
        execution = await next_admitted(bus, waiting)
        await bus.perform(execution, "a")
        waiting.discard(execution)
        ended += 1
        if ended == 7:
            first.send(signal.SIGKILL)
            assert await first.exit_status() == -signal.SIGKILL

    async def all_ended() -> bool:
        return sum(isinstance(event, ExecutionFinished) for _, event in await all_events(bus)) == 20

    await bus.eventually(all_ended, "all have ended")
    assert await most_inside(bus) == LIMIT


async def next_admitted(bus: Any, waiting: set[str]) -> str:
    """Wait until one of them has been admitted."""

    async def look() -> str | None:
        for execution_id, event in await all_events(bus):
            if execution_id in waiting and isinstance(event, ExecutionAdmitted):
                return execution_id
        await asyncio.sleep(0.02)
        return None

    found: str = await bus.eventually(look, f"one of {len(waiting)} to be admitted")
    return found
