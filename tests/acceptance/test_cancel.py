"""Cancelling over HTTP: calls of a model are aborted, what waits never begins, and cleanup steps run all the same."""

from __future__ import annotations

import json
import re
import select
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.embedded import EmbeddedStack
from millrace_agent_runner.domain.credit import STANDING

KEY = "acceptance-test-key"
ABORT_S_MAX = 2.0
"""What is promised: from the request to cancel to the end of the model's calls."""
RUNS = 3
ITEMS = 200
PARALLEL = 60
SLOTS = 40
ROOM = SLOTS - STANDING + 1
"""Steps of one kind that run at once: the other slots are kept for other kinds and lanes. There are more items, and
more of them may run, so that at any time some run, some are queued for the runner, and some are neither."""
DEADLINE_S = 60.0
ANSWER_S = 120.0
PIECE_S = 0.05
BODY_BYTES_MAX = 65_536
PIECE = b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"and so on "}}]}\n\n'  # noqa: E501


class Provider(socketserver.ThreadingTCPServer):
    """Speaks as much of OpenAI's protocol as somebody needs who never comes to an end.

    The model `stream` talks all the time, any other one says nothing. What was asked for and who has hung up is noted
    by this process's own clock.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.changed = threading.Condition()
        self.asked: list[int] = []
        self.hung_up_at: list[float] = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def forget(self) -> None:
        """Count from nothing again. All that was asked for must be over."""
        with self.changed:
            assert len(self.asked) == len(self.hung_up_at)
            self.asked.clear()
            self.hung_up_at.clear()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, DEADLINE_S), (len(self.asked), len(self.hung_up_at))


class Conversation(socketserver.StreamRequestHandler):
    """One call of the model, from being asked to the other's hanging up."""

    server: Provider

    def handle(self) -> None:
        size = 0
        while (line := self.rfile.readline(BODY_BYTES_MAX).strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                size = int(value)
        body = self.rfile.read(min(size, BODY_BYTES_MAX))
        if len(body) < size or not size:  # it was cancelled before it had asked
            return
        request = json.loads(body)
        [page] = re.findall(r"Page (\d+)", str(request["messages"]))
        with self.server.changed:
            self.server.asked.append(int(page))
            self.server.changed.notify_all()
        try:
            self._talk(is_silent=request["model"] != "stream")
        finally:
            with self.server.changed:
                self.server.hung_up_at.append(time.monotonic())
                self.server.changed.notify_all()

    def _talk(self, *, is_silent: bool) -> None:
        if not is_silent:
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            readable, _, _ = select.select([self.connection], [], [], PIECE_S)
            try:
                if readable and not self.connection.recv(1):
                    return
                if not is_silent:
                    self.wfile.write(PIECE)
            except OSError:
                return


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as serving:
        threading.Thread(target=serving.serve_forever, name="provider", daemon=True).start()
        yield serving
        serving.shutdown()


@pytest.fixture(scope="module")
def writing(server_directory: Callable[[], Path], product: Any, provider: Provider) -> Iterator[Any]:
    """The product, whose agents talk to the provider."""
    environment = {
        "MILLRACE_OPENAI_BASE_URL": provider.base_url,
        "MILLRACE_PYTHON_MODULES": "millrace_agent_runner.functions",
        "MILLRACE_RUNNER_SLOTS": str(SLOTS),
    }
    stack = EmbeddedStack(server_directory(), api_key=KEY, environment=environment)
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        stack.in_background() as running,
        httpx.Client(base_url=running.api_url, headers=headers, timeout=90) as http,
    ):
        yield product(running, http)


def definition(model: str) -> dict[str, Any]:
    page = {
        "agent": "writer",
        "prompt": "Page ${{ item }}",
        "for_each": list(range(ITEMS)),
        "max_parallel": PARALLEL,
        "timeout": "10m",
    }
    tidy = {"needs": ["pages"], "run": "always", "python": "millrace_agent_runner.functions:fib", "input": {"n": 10}}
    return {
        "name": f"book-{model}",
        "agents": {"writer": {"model": f"openai:{model}"}},
        "limits": {"max_parallel": PARALLEL},
        "steps": {"pages": page, "tidy": tidy, "sell": {"needs": ["pages"], "transform": 1}},
    }


@pytest.mark.parametrize("model", ["stream", "silent"])
def test_calls_end_within_two_seconds_and_what_waits_never_begins(writing: Any, provider: Provider, model: str) -> None:
    name = writing.save(definition(model))
    took_s = []
    for _ in range(RUNS):
        took_s.append(cancelled_s(writing, provider, name))
        provider.forget()
        if took_s[-1] <= ABORT_S_MAX:
            break
    # That it takes two seconds at most is the promise itself, so here the clock is asked; but a machine that has
    # something else to do for a moment is no reason to fail, and so the best of a few runs counts.
    assert min(took_s) <= ABORT_S_MAX, took_s


def cancelled_s(writing: Any, provider: Provider, name: str) -> float:
    """Start the execution, cancel it in the middle, and see what came of it.

    Returns:
        The seconds from the request to cancel to the end of the last call, by the provider.
    """
    execution_id = writing.start(name)
    provider.wait_until(lambda: len(provider.asked) == ROOM)
    sent_at = time.monotonic()
    answer = writing.http.post(f"/api/v1/executions/{execution_id}/cancel")
    assert answer.status_code == 202, answer.text
    provider.wait_until(lambda: len(provider.hung_up_at) == len(provider.asked))
    took_s = max(provider.hung_up_at) - sent_at
    detail = writing.ended(execution_id)
    assert detail["status"] == "cancelled"
    statuses = {step["step_id"]: step["status"] for step in detail["step_executions"]}
    assert statuses["tidy"] == "completed"
    assert statuses.get("sell") != "completed"
    assert len(set(provider.asked)) == len(provider.asked) == ROOM, "work that was queued was begun"
    return took_s
