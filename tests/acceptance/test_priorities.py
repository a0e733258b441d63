"""Priorities over HTTP: what is urgent goes first, and what is not goes on all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.embedded import EmbeddedStack

KEY = "acceptance-test-key"
FLOOD = 300
QUEUED = 200
LATER = 10
NAP = {"nap": {"python": "millrace_agent_runner.functions.testing:sleep", "input": {"seconds": 0.05}}}


@pytest.fixture(scope="module")
def narrow(server_directory: Callable[[], Path], product: Any) -> Iterator[Any]:
    """A product that does few things at a time: 24 slots, of which each lane keeps one request open."""
    environment = {"MILLRACE_RUNNER_SLOTS": "24"}
    stack = EmbeddedStack(server_directory(), api_key=KEY, environment=environment, durability="interval")
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        stack.in_background() as running,
        httpx.Client(base_url=running.api_url, headers=headers, timeout=90) as http,
    ):
        millrace = product(running, http)
        steps = {f"nap{index}": {**NAP["nap"], "needs": [f"nap{index - 1}"] if index else []} for index in range(5)}
        millrace.save({"name": "naps", "steps": steps})
        yield millrace


@pytest.mark.parametrize(("many", "one"), [("low", "high"), ("low", "normal"), ("normal", "high"), ("high", "low")])
def test_one_is_not_behind_the_many(narrow: Any, many: str, one: str) -> None:
    """An urgent one overtakes; and the lane of the one that is not is never starved."""
    narrow.stack.suspend("agent-runner")
    try:
        flooding = [narrow.start("naps", priority=many) for _ in range(FLOOD)]
        last = narrow.start("naps", priority=one)
    finally:
        narrow.stack.resume("agent-runner")
    ended_at = narrow.ended(last)["completed_at"]
    behind = sum(detail["completed_at"] > ended_at for detail in narrow.ended_all(flooding))
    assert behind > FLOOD // 2, f"it came last, and {FLOOD - behind} of {FLOOD} ended before it"


@pytest.mark.parametrize(("many", "few", "overtaken_min"), [("low", "high", QUEUED // 2), ("high", "low", QUEUED // 4)])
def test_who_comes_last_goes_before_most_of_the_many(narrow: Any, many: str, few: str, overtaken_min: int) -> None:
    """All of it waits when the runner begins, so what goes before what depends on no one's speed.

    Before the urgent ones go what the workspace had queued while it was within its share, an eighth of the places
    besides, and what the runner was sent while it stood still. The others get an eighth, urgent work or not.
    """
    narrow.save({"name": "nap", "steps": NAP})
    narrow.stack.suspend("agent-runner")
    try:
        queued = [narrow.start("nap", priority=many) for _ in range(QUEUED)]
        late = [narrow.start("nap", priority=few) for _ in range(LATER)]
    finally:
        narrow.stack.resume("agent-runner")
    last = max(begun_at(detail) for detail in narrow.ended_all(late))
    overtaken = sum(begun_at(detail) > last for detail in narrow.ended_all(queued))
    assert overtaken >= overtaken_min


def begun_at(detail: dict[str, Any]) -> datetime:
    """Return when the runner began the execution's step."""
    [step] = detail["step_executions"]
    return datetime.fromisoformat(step["started_at"])


def test_a_priority_that_there_is_not_is_refused(narrow: Any) -> None:
    answer = narrow.http.post("/api/v1/executions", json={"workflow": "naps", "priority": "urgent"})
    assert answer.status_code == 422
    assert "priority" in answer.text


def test_a_workflow_has_a_priority_of_its_own_and_a_request_may_have_another(narrow: Any) -> None:
    narrow.save({"name": "urgent", "priority": "high", "steps": {"one": {"transform": 1}}})
    shown = [narrow.ended(narrow.start("urgent", **other)) for other in ({}, {"priority": "low"})]
    assert [one["priority"] for one in shown] == ["high", "low"]
