"""Agents that go on where they were: after a failure of the provider, and with another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.embedded import EmbeddedStack
from millrace_shared.testing.providers import Call, FakeProviders, calls, refused, reply

KEY = "acceptance-test-key"
TOOLS = 3
ADDS = {
    "name": "adds",
    "agents": {
        "adder": {"model": "openai:tiny", "tools": [{"name": "fib", "config": {"call": "fib"}}]},
        "careful": {"model": "openai:broken", "fallback_models": ["openai:tiny"]},
    },
    "steps": {
        "add": {
            "agent": "adder",
            "prompt": "Add up.",
            "retry": {"max_attempts": 3, "initial": "10ms", "jitter": False},
        },
        "ask": {"agent": "careful", "prompt": "Why is the sky blue?"},
    },
}


class Script:
    """Fails once at the fourth request of the agent with tools; the model `broken` always does."""

    def __init__(self) -> None:
        self.has_failed = False

    def __call__(self, call: Call) -> Any:
        """Return what a call is told."""
        if call.model == "broken":
            return refused(503)
        if not call.tools:
            return reply("it scatters")
        given = answers_given(call)
        if given == TOOLS and not self.has_failed:
            self.has_failed = True
            return refused(500)
        return reply(None, calls("fib", n=given)) if given < TOOLS else reply("added")


def answers_given(call: Call) -> int:
    return sum(message["role"] == "assistant" for message in call.messages)


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProviders]:
    with FakeProviders(Script()) as running:
        yield running


@pytest.fixture(scope="module")
def millrace(server_directory: Callable[[], Path], product: Any, provider: FakeProviders) -> Iterator[Any]:
    """A stack whose models are the test's."""
    environment = {"MILLRACE_OPENAI_BASE_URL": provider.openai_url}
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


@pytest.mark.slow
def test_a_retry_pays_for_nothing_again_and_another_model_answers_for_one_that_cannot(
    millrace: Any, provider: FakeProviders
) -> None:
    execution = millrace.run(millrace.save(ADDS))
    assert execution["status"] == "completed", execution
    with_tools = [answers_given(call) for call in provider.calls if call.tools]
    assert with_tools == [0, 1, 2, 3, 3]  # the request that failed, once more, and none before it
    steps = {step["step_id"]: step for step in execution["step_executions"]}
    assert (steps["add"]["retry_count"], steps["add"]["output_data"]) == (1, "added")
    assert steps["ask"]["output_data"] == "it scatters"
    assert [call.model for call in provider.calls if not call.tools] == ["broken", "tiny"]
