"""Graphs of every size finish with each step run once, after what it needs."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

FUNCTION = "millrace_agent_runner.functions:fib"


def step(*needs: str) -> dict[str, Any]:
    return {"python": FUNCTION, "input": {"n": 1}, "needs": list(needs)}


def random_dag(count: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    steps: dict[str, Any] = {}
    for index in range(count):
        first = max(0, index - 200)
        needs = {rng.randrange(first, index) for _ in range(rng.randint(0, 3))} if index else set()
        steps[f"s{index}"] = step(*(f"s{need}" for need in sorted(needs)))
    return steps


GRAPHS: dict[str, dict[str, Any]] = {
    "two": {"a": step(), "b": step("a")},
    "diamond": {"a": step(), "b": step("a"), "c": step("a"), "d": step("b", "c")},
    "chain-40": {f"s{i}": step(*([f"s{i - 1}"] if i else [])) for i in range(40)},
    "fan-100": {
        "first": step(),
        **{f"m{i}": step("first") for i in range(100)},
        "last": step(*(f"m{i}" for i in range(100))),
    },
    "random-1000": random_dag(1_000, seed=1),
    "random-10000": random_dag(10_000, seed=2),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_step_runs_once_and_in_order(millrace: Any, name: str) -> None:
    steps = GRAPHS[name]
    workflow = millrace.save({"name": name, "limits": {"timeout": "10m"}, "steps": steps})
    detail = millrace.ended(millrace.start(workflow), deadline_s=240)
    assert detail["status"] == "completed", detail["error"]
    events = events_of(millrace, detail["id"])
    completed = Counter(event["step"] for event in events if event["type"] == "step.completed")
    scheduled = Counter(event["step"] for event in events if event["type"] == "step.scheduled")
    assert completed == scheduled == Counter(dict.fromkeys(steps, 1))
    done: set[str] = set()
    for event in events:
        if event["type"] == "step.scheduled":
            assert set(steps[event["step"]]["needs"]) <= done, f"{event['step']} ran before what it needs"
        elif event["type"] == "step.completed":
            done.add(event["step"])


def events_of(millrace: Any, execution_id: str) -> list[dict[str, Any]]:
    """Return an execution's whole log, event by event."""
    events: list[dict[str, Any]] = []
    cursor = None
    while True:
        query = {"limit": 100, **({"cursor": cursor} if cursor else {})}
        page = millrace.http.get(f"/api/v1/executions/{execution_id}/events", params=query).json()
        events += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return events
