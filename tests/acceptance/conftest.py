"""The whole product, over HTTP: the same supervisor, servers and services as `millrace up`, with fsync on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.embedded import BackgroundStack, EmbeddedStack
from millrace_shared.testing.waiting import until

KEY = "acceptance-test-key"


@dataclass
class Millrace:
    """A running product and a client of it."""

    stack: BackgroundStack
    http: httpx.Client

    def save(self, definition: dict[str, Any]) -> str:
        """Save a workflow (a new version if its name is known); return its name."""
        answer = self.http.put(f"/api/v1/workflows/{definition['name']}", json={"version": 1, **definition})
        assert answer.status_code in {200, 201}, answer.text
        return str(definition["name"])

    def start(self, workflow: str, data: dict[str, Any] | None = None, **rest: Any) -> str:
        """Start an execution; return its id."""
        answer = self.http.post("/api/v1/executions", json={"workflow": workflow, "input": data or {}, **rest})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["execution_id"])

    def run(self, workflow: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Start an execution and wait for its end; return its detail."""
        return self.ended(self.start(workflow, data))

    def detail(self, execution_id: str) -> dict[str, Any]:
        """Return an execution's detail."""
        answer = self.http.get(f"/api/v1/executions/{execution_id}")
        assert answer.status_code == 200, answer.text
        detail: dict[str, Any] = answer.json()
        return detail

    def ended(self, execution_id: str, deadline_s: float = 60.0) -> dict[str, Any]:
        """Wait until an execution has ended; return its detail."""
        detail: dict[str, Any] = {}

        def has_ended() -> bool:
            nonlocal detail
            detail = self.detail(execution_id)
            return detail["status"] not in {"pending", "running", "paused"}

        until(has_ended, lambda: f"execution {execution_id} is {detail.get('status')}: {detail}", deadline_s)
        return detail

    def begun(self, execution_id: str, deadline_s: float = 60.0) -> None:
        """Wait until an execution runs: it has passed its gates of flow control."""
        until(lambda: self.detail(execution_id)["status"] == "running", f"{execution_id} runs", deadline_s)

    def start_many(self, workflow: str, count: int) -> list[str]:
        """Start executions from several clients at once; return their ids."""
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda _: self.start(workflow), range(count)))

    def ended_all(self, ids: list[str], deadline_s: float = 120.0) -> list[dict[str, Any]]:
        """Wait until all have ended; return their details."""
        deadline = time.monotonic() + deadline_s
        return [self.ended(execution_id, max(1.0, deadline - time.monotonic())) for execution_id in ids]


@pytest.fixture(scope="session")
def product() -> type[Millrace]:
    """What a module makes its `millrace` of that runs a stack of its own."""
    return Millrace


@pytest.fixture(scope="module")
def millrace(server_directory: Callable[[], Path]) -> Iterator[Millrace]:
    """The product, started for the module."""
    environment = {
        "MILLRACE_PYTHON_MODULES": "millrace_agent_runner.functions",
        "MILLRACE_RUNNER_GRACE_S": "1",  # a step that a test leaves asleep need not be waited for at the end
    }
    stack = EmbeddedStack(server_directory(), api_key=KEY, environment=environment)
    headers = {"Authorization": f"Bearer {KEY}"}
    transport = httpx.HTTPTransport(retries=5)
    with (
        stack.in_background() as running,
        httpx.Client(base_url=running.api_url, headers=headers, timeout=90, transport=transport) as http,
    ):
        yield Millrace(running, http)
