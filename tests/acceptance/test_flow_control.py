"""Flow control over HTTP: concurrency, throttle, debounce and singleton, and a `kill -9` in the middle of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

SLEEP = {"python": "millrace_agent_runner.functions.testing:sleep"}
HOLD = {"hold": {"wait": {"signal": "go"}}}


def save(millrace: Any, name: str, steps: dict[str, Any] | None = None, **rules: Any) -> str:
    inputs = {"customer": {"default": "one"}}
    return str(millrace.save({"name": name, "inputs": inputs, "steps": steps or HOLD, **rules}))


def short(seconds: float) -> dict[str, Any]:
    return {"work": {**SLEEP, "input": {"seconds": seconds}}}


def let_go(millrace: Any, execution_id: str) -> None:
    answer = millrace.http.post(f"/api/v1/executions/{execution_id}/signal", json={"name": "go"})
    assert answer.status_code in {200, 202}, answer.text


def code(detail: dict[str, Any]) -> str:
    assert detail["status"] == "cancelled", detail
    return str(detail["error"]["code"])


def most_at_once(details: Iterable[dict[str, Any]]) -> int:
    """Return how many of the executions' steps ran at the same time."""
    changes = []
    for detail in details:
        for step in detail["step_executions"]:
            changes += [(step["started_at"], 1), (step["completed_at"], -1)]
    running = most = 0
    for _, change in sorted(changes, key=lambda one: (datetime.fromisoformat(one[0]), one[1])):
        running += change
        most = max(most, running)
    return most


def start_at_once(millrace: Any, workflow: str, inputs: list[dict[str, Any]]) -> list[str]:
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda data: millrace.start(workflow, data), inputs))


def test_no_more_than_the_limit_run_of_fifty_that_start_at_once(millrace: Any) -> None:
    rule = {"key": "${{ inputs.customer }}", "limit": 2}
    name = save(millrace, "by-customer", short(0.1), concurrency=rule)
    ids = start_at_once(millrace, name, [{"customer": f"c{number % 2}"} for number in range(50)])
    details = millrace.ended_all(ids)
    assert Counter(detail["status"] for detail in details) == {"completed": 50}
    assert [most_at_once(details[customer::2]) for customer in range(2)] == [2, 2]


def test_one_too_many_is_pending_until_its_turn(millrace: Any) -> None:
    name = save(millrace, "queue", concurrency={"limit": 1})
    first, second = millrace.start(name), millrace.start(name)
    millrace.begun(first)
    assert millrace.detail(second)["status"] == "pending"
    let_go(millrace, first)
    millrace.begun(second)
    let_go(millrace, second)
    assert [detail["status"] for detail in millrace.ended_all([first, second])] == ["completed"] * 2


def test_one_that_is_cancelled_while_it_waits_holds_nobody_up(millrace: Any) -> None:
    name = save(millrace, "queue-cancel", concurrency={"limit": 1})
    first, second, third = (millrace.start(name) for _ in range(3))
    millrace.begun(first)
    assert millrace.http.post(f"/api/v1/executions/{second}/cancel").status_code in {200, 202}
    detail = millrace.ended(second)
    assert detail["status"] == "cancelled"
    assert all(step["status"] != "running" for step in detail["step_executions"])
    let_go(millrace, first)
    millrace.begun(third)


@pytest.mark.parametrize("rule", [{"concurrency": {"limit": 1, "on_limit": "drop"}}, {"singleton": True}])
def test_one_too_many_is_cancelled(millrace: Any, rule: dict[str, Any]) -> None:
    name = save(millrace, "drop-" + next(iter(rule)), **rule)
    first = millrace.start(name)
    millrace.begun(first)
    second = millrace.ended(millrace.start(name))
    assert code(second) == "concurrency_limit"
    let_go(millrace, first)
    assert millrace.ended(first)["status"] == "completed"
    third = millrace.start(name)
    millrace.begun(third)


def test_a_singleton_with_a_key_is_one_for_each(millrace: Any) -> None:
    name = save(millrace, "singleton-key", singleton={"key": "${{ inputs.customer }}"})
    for customer in ("a", "b"):
        millrace.begun(millrace.start(name, {"customer": customer}))
    assert code(millrace.ended(millrace.start(name, {"customer": "a"}))) == "concurrency_limit"


def test_the_oldest_makes_room_for_the_newest(millrace: Any) -> None:
    name = save(millrace, "newest", concurrency={"limit": 1, "on_limit": "cancel_oldest"})
    first = millrace.start(name)
    millrace.begun(first)
    second = millrace.start(name)
    assert millrace.ended(first)["status"] == "cancelled"
    millrace.begun(second)
    let_go(millrace, second)
    assert millrace.ended(second)["status"] == "completed"


def test_a_throttle_spreads_what_is_too_much(millrace: Any) -> None:
    name = save(millrace, "throttle", short(0.0), throttle={"limit": 3, "per": "1s"})
    details = millrace.ended_all(start_at_once(millrace, name, [{} for _ in range(9)]))
    assert Counter(detail["status"] for detail in details) == {"completed": 9}
    accepted = min(datetime.fromisoformat(detail["created_at"]) for detail in details)
    begun = sorted(datetime.fromisoformat(detail["step_executions"][0]["started_at"]) for detail in details)
    assert (begun[3] - accepted).total_seconds() >= 1.0
    assert (begun[6] - accepted).total_seconds() >= 2.0


def test_a_throttle_may_turn_away(millrace: Any) -> None:
    name = save(millrace, "throttle-drop", short(0.0), throttle={"limit": 1, "per": "1h", "on_limit": "drop"})
    assert millrace.run(name)["status"] == "completed"
    assert code(millrace.run(name)) == "throttled"


def test_of_several_starts_in_a_row_the_newest_runs(millrace: Any) -> None:
    name = save(millrace, "debounce", short(0.0), debounce={"key": "${{ inputs.customer }}", "delay": "3s"})
    other = millrace.start(name, {"customer": "two"})
    *older, newest = [millrace.start(name) for _ in range(5)]
    assert {code(detail) for detail in millrace.ended_all(older)} == {"debounced"}
    assert millrace.ended(newest)["status"] == "completed"
    assert millrace.ended(other)["status"] == "completed"


def test_rules_stand_one_behind_the_other(millrace: Any) -> None:
    rules = {"throttle": {"limit": 4, "per": "1s"}, "concurrency": {"limit": 1}}
    name = save(millrace, "both", short(0.05), **rules)
    details = millrace.ended_all(start_at_once(millrace, name, [{} for _ in range(8)]))
    assert Counter(detail["status"] for detail in details) == {"completed": 8}
    assert most_at_once(details) == 1


@pytest.mark.parametrize("part", ["orchestrator", "nats"])
def test_nobody_is_lost_at_a_gate_when_a_part_is_killed(millrace: Any, part: str) -> None:
    name = save(millrace, f"killed-{part}", short(0.1), concurrency={"limit": 3})
    ids = start_at_once(millrace, name, [{} for _ in range(60)])
    millrace.stack.kill(part)
    millrace.stack.wait_ready(part)
    details = millrace.ended_all(ids, deadline_s=150)
    assert Counter(detail["status"] for detail in details) == {"completed": 60}
    assert most_at_once(details) <= 3
