"""Agents that use tools through the whole product: people who answer, code in the sandbox, a program of MCP."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from steering import done, post, problem, step, waits

from millrace.embedded import EmbeddedStack
from millrace_shared.testing.providers import Call, FakeProviders, calls, reply
from millrace_shared.testing.waiting import until

KEY = "acceptance-test-key"
PROBE = Path(__file__).parents[2] / "services/agent-runner/tests/unit/mcp_server.py"
FORM = {"type": "object", "required": ["colour"], "properties": {"colour": {"enum": ["red", "blue"]}}}
USES = {
    "name": "uses-tools",
    "agents": {
        "worker": {
            "model": "openai:tiny",
            "tools": [{"name": "human.ask", "config": {"form": FORM}}, "python.sandbox", "mcp:probe"],
        }
    },
    "steps": {"work": {"agent": "worker", "prompt": "Go."}},
}


def told(call: Call) -> Any:
    """Use each tool, then answer."""
    if any(message["role"] == "tool" for message in call.messages):
        return reply("done")
    return reply(
        None,
        calls("python_sandbox", code="6 * 7"),
        calls("probe_add", left=2, right=3),
        calls("human_ask", question="Which colour?"),
    )


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProviders]:
    with FakeProviders(told) as running:
        yield running


@pytest.fixture(scope="module")
def millrace(server_directory: Callable[[], Path], product: Any, provider: FakeProviders) -> Iterator[Any]:
    """A stack whose models are the test's, with an MCP server of the operator's."""
    servers = {"probe": {"command": sys.executable, "args": [str(PROBE)]}}
    environment = {"MILLRACE_OPENAI_BASE_URL": provider.openai_url, "MILLRACE_MCP_SERVERS": json.dumps(servers)}
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
def test_an_agent_computes_calls_a_server_and_waits_for_people(millrace: Any, provider: FakeProviders) -> None:
    execution_id = millrace.start(millrace.save(USES))
    until(waits(millrace, execution_id, "work", "approval"))
    assert len(provider.calls) == 1
    wrong = post(millrace, execution_id, "steps/work/approve", data={"colour": "green"})
    assert problem(wrong)[0] == 422, wrong.text  # the form is the author's
    done(post(millrace, execution_id, "steps/work/approve", note="mine", data={"colour": "red"}), "approved")
    execution = millrace.ended(execution_id)
    assert execution["status"] == "completed", execution
    assert step(millrace, execution_id, "work")["output_data"] == "done"
    assert len(provider.calls) == 2  # the conversation went on, and asked for nothing again
    heard = [json.loads(message["content"]) for message in provider.calls[-1].messages if message["role"] == "tool"]
    assert heard == [
        {"result": 42, "printed": ""},
        {"result": 5},
        {"answered": True, "approved": True, "note": "mine", "data": {"colour": "red"}},
    ]
