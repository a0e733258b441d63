"""Steps that wait for a rate limit: they hold no place, say what they wait for, and go on when there is room."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.embedded import EmbeddedStack
from millrace_shared.testing.providers import FakeProviders, reply
from millrace_shared.testing.waiting import until

KEY = "acceptance-test-key"
LIMIT = {"provider": "openai", "model": "tiny", "requests_per_minute": 1}
ASKS = {
    "name": "asks",
    "limits": {"timeout": "1h"},
    "agents": {"brief": {"model": "openai:tiny", "instructions": "Be brief."}},
    "steps": {"ask": {"agent": "brief", "prompt": "Why is the sky blue?"}},
}
SLOTS = 10


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProviders]:
    with FakeProviders(reply("it scatters")) as running:
        yield running


@pytest.fixture(scope="module")
def millrace(server_directory: Callable[[], Path], product: Any, provider: FakeProviders) -> Iterator[Any]:
    """A stack with one runner of ten slots, and a model that may be asked once in a minute."""
    environment = {
        "MILLRACE_OPENAI_BASE_URL": provider.openai_url,
        "MILLRACE_RATE_LIMITS": json.dumps([LIMIT]),
        "MILLRACE_RUNNER_SLOTS": str(SLOTS),
        "MILLRACE_PYTHON_MODULES": "millrace_agent_runner.functions",
    }
    stack = EmbeddedStack(server_directory(), api_key=KEY, environment=environment)
    with (
        stack.in_background() as running,
        httpx.Client(
            base_url=running.api_url,
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=90,
            transport=httpx.HTTPTransport(retries=5),
        ) as http,
    ):
        yield product(running, http)


def reasons(millrace: Any, execution_id: str) -> list[dict[str, Any]]:
    answer = millrace.http.get(f"/api/v1/executions/{execution_id}/why")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["reasons"]
    return found


@pytest.mark.slow
def test_more_steps_than_slots_wait_without_one_and_go_on_when_the_limit_is_raised(
    millrace: Any, provider: FakeProviders
) -> None:
    asks = millrace.save(ASKS)
    waiting = millrace.start_many(asks, 2 * SLOTS)
    said: dict[str, str] = {}

    def all_but_one_wait() -> bool:
        for execution_id in waiting:
            for reason in reasons(millrace, execution_id):
                if reason["code"] == "tokens":
                    said[execution_id] = reason["message"]
        return len(said) >= len(waiting) - len(provider.calls) and len(provider.calls) >= 1

    until(all_but_one_wait, lambda: f"{len(said)} wait for tokens: {said}", 120)
    assert all("waits for one of 1 requests/min of openai:tiny, about " in message for message in said.values())
    assert len(provider.calls) < SLOTS
    other = {"python": "millrace_agent_runner.functions:fib", "input": {"n": 5}}
    assert millrace.run(millrace.save({"name": "other", "steps": {"fib": other}}))["status"] == "completed"
    raised = millrace.http.put("/api/v1/rate-limits", json={**LIMIT, "requests_per_minute": 60_000})
    assert raised.status_code == 200, raised.text
    ended = millrace.ended_all(waiting, 240.0)
    assert {execution["status"] for execution in ended} == {"completed"}
    assert len(provider.calls) == len(waiting)  # nobody was asked twice, however often they came back
    [step] = ended[-1]["step_executions"]
    assert step["retry_count"] == 0
