"""Priorities over HTTP: what is urgent goes first, and what is not goes on all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.embedded import EmbeddedStack

KEY = "acceptance-test-key"
FLOOD = 300
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


def flood(millrace: Any, priority: str) -> list[str]:
    body = {"workflow": "naps", "priority": priority}
    answers = [millrace.http.post("/api/v1/executions", json=body) for _ in range(FLOOD)]
    return [answer.json()["execution_id"] for answer in answers]


@pytest.mark.parametrize(("many", "one"), [("low", "high"), ("normal", "high"), ("high", "low")])
def test_one_is_not_behind_the_many(narrow: Any, many: str, one: str) -> None:
    """An urgent one overtakes; and the lane of the one that is not is never starved."""
    flooding = flood(narrow, many)
    narrow.ended(narrow.start("naps", priority=one))
    assert narrow.detail(flooding[-1])["status"] in {"pending", "running"}, "the flood was over before it mattered"
    narrow.ended_all(flooding)
