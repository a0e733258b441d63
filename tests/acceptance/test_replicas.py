"""Several orchestrators and runners: any of them may die, or stand still and wake up, and nobody notices much.

`make chaos` does the same for minutes and prints the figures.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from millrace.embedded import EmbeddedStack
from millrace.embedded.ports import choose_free
from millrace_shared import subjects
from millrace_shared.bus.connection import connect
from millrace_shared.bus.log_reader import read_subject
from millrace_shared.codec import decode_fact
from millrace_shared.messages import StepStarted
from millrace_shared.testing.waiting import until

KEY = "replicas-test-key"
SLEEP = "millrace_agent_runner.functions.testing:sleep"
FAILOVER_S = 5.0
"""What is promised. Tests wait longer, since the machine that runs them is busy; `make chaos` prints what it is."""
DEADLINE_S = 12 * FAILOVER_S


@pytest.fixture(scope="module")
def chaos() -> Iterator[ModuleType]:
    """`benchmarks/chaos.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        import chaos

        yield chaos


@pytest.fixture(scope="module")
def millrace(chaos: ModuleType, server_directory: Callable[[], Path], product: Any) -> Iterator[Any]:
    """The product with three orchestrators and three runners."""
    stack = EmbeddedStack(
        server_directory(),
        durability="interval",
        services=chaos.SERVICES,
        api_key=KEY,
        api_port=choose_free(),
        environment=chaos.ENVIRONMENT,
    )
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        stack.in_background() as running,
        httpx.Client(base_url=running.api_url, headers=headers, timeout=90) as http,
    ):
        yield product(running, http)


def starts_of(millrace: Any, execution_id: str) -> list[StepStarted]:
    async def read() -> list[StepStarted]:
        connection = await connect(millrace.stack.nats_url, "test")
        try:
            subject = subjects.fact(execution_id, "step_started")
            facts = [decode_fact(one.payload) async for one in read_subject(connection, "TELEMETRY", subject)]
            return [fact for fact in facts if isinstance(fact, StepStarted)]
        finally:
            await connection.close()

    return list(millrace.stack.run(read()))


def begun(millrace: Any, seconds: float) -> tuple[str, str]:
    """Start an execution of one step; return its id and the runner that has begun it."""
    name = millrace.save({"name": "long", "steps": {"a": {"python": SLEEP, "input": {"seconds": seconds}}}})
    execution_id = millrace.start(name)
    until(lambda: len(starts_of(millrace, execution_id)) == 1, "a runner has begun it", DEADLINE_S)
    return execution_id, starts_of(millrace, execution_id)[0].runner


def test_what_a_killed_runner_held_is_done_by_another(millrace: Any) -> None:
    execution_id, runner = begun(millrace, seconds=5.0)
    millrace.stack.kill(runner)
    until(
        lambda: len(starts_of(millrace, execution_id)) == 2, "another, or its successor, has taken it over", DEADLINE_S
    )
    assert millrace.ended(execution_id)["status"] == "completed"
    millrace.stack.wait_ready(runner)


def test_a_runner_that_stood_still_gives_up_what_another_has(millrace: Any) -> None:
    execution_id, runner = begun(millrace, seconds=600.0)
    millrace.stack.suspend(runner)
    until(lambda: len(starts_of(millrace, execution_id)) == 2, "another has taken it over", DEADLINE_S)
    millrace.stack.resume(runner)
    metrics = f"{millrace.stack.stack.url(runner)}/metrics"
    until(
        lambda: "millrace_runner_attempts_lost_total 1.0" in httpx.get(metrics).text, "it has given it up", DEADLINE_S
    )
    assert millrace.detail(execution_id)["status"] == "running"
    assert millrace.http.post(f"/api/v1/executions/{execution_id}/cancel").status_code < 300
    assert millrace.ended(execution_id)["status"] == "cancelled"
    assert len(starts_of(millrace, execution_id)) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_executions_go_on_without_an_orchestrator(millrace: Any, number: signal.Signals) -> None:
    """Of executions in all partitions none waits for the one that is gone."""
    steps = {
        f"s{index}": {"python": SLEEP, "input": {"seconds": 0.2}, "needs": [f"s{index - 1}"] if index else []}
        for index in range(4)
    }
    name = millrace.save({"name": "steps", "steps": steps})
    ids = millrace.start_many(name, 48)
    millrace.stack.kill("orchestrator-2", number)
    try:
        statuses = {detail["status"] for detail in millrace.ended_all(ids, deadline_s=2 * DEADLINE_S)}
    finally:
        if number is signal.SIGSTOP:
            millrace.stack.resume("orchestrator-2")
    assert statuses == {"completed"}
    millrace.stack.wait_ready("orchestrator-2")
    assert {millrace.detail(execution_id)["status"] for execution_id in ids} == {"completed"}


def test_nothing_is_lost_stuck_or_done_twice_under_random_faults(millrace: Any, chaos: ModuleType) -> None:
    plan = chaos.Plan(seconds=9.0, rate=6.0, fault_every_s=2.0, stop_s=6.0, settle_s=60.0, seed=11)
    run = chaos.Chaos(millrace.stack.stack, plan)
    verdict = millrace.stack.run(run.run())
    assert len(run.faults) >= 2
    assert sum(verdict.ended.values()) > 20
    assert (verdict.lost, verdict.stuck, verdict.double, verdict.disagreeing) == ([], [], [], [])
    assert set(verdict.ended) == {"completed"}
    assert not run.refused
