"""Logs that were compacted: everything over HTTP answers as before, and each ended execution is one message."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.embedded import EmbeddedStack
from millrace_shared import subjects
from millrace_shared.bus.connection import connect
from millrace_shared.bus.log_reader import read_subject
from millrace_shared.testing.waiting import until

KEY = "acceptance-test-key"
COMPACTION_H = 4 / 3600
FIB = {"python": "millrace_agent_runner.functions:fib", "input": {"n": 3}}
FAIL = {"python": "millrace_agent_runner.functions.testing:fail", "input": {"retryable": False}}
STEPS = {"a": FIB, "b": {"needs": ["a"], **FIB}, "c": {"needs": ["b"], **FAIL}}
WAITS = {"a": FIB, "ok": {"needs": ["a"], "approval": {"message": "Publish?"}}, "b": {"needs": ["ok"], **FIB}}
COUNT = 5
SHORT = 3
"""Logs with fewer messages stay as they are."""


@pytest.fixture(scope="module")
def millrace(server_directory: Callable[[], Path], product: Any) -> Iterator[Any]:
    """A stack that compacts the logs of what has ended after seconds."""
    environment = {
        "MILLRACE_PYTHON_MODULES": "millrace_agent_runner.functions",
        "MILLRACE_LOG_COMPACTION_HOURS": f"{COMPACTION_H:.8f}",
    }
    stack = EmbeddedStack(server_directory(), api_key=KEY, environment=environment)
    headers = {"Authorization": f"Bearer {KEY}"}
    transport = httpx.HTTPTransport(retries=5)
    with (
        stack.in_background() as running,
        httpx.Client(base_url=running.api_url, headers=headers, timeout=90, transport=transport) as http,
    ):
        yield product(running, http)


def messages(millrace: Any) -> dict[str, int]:
    """How many messages EVENTS holds of each execution."""

    async def count() -> dict[str, int]:
        connection = await connect(millrace.stack.nats_url, "test")
        found: dict[str, int] = {}
        try:
            async for stored in read_subject(connection, "EVENTS", "ev.*.*"):
                execution_id = subjects.execution_id_of(stored.subject)
                found[execution_id] = found.get(execution_id, 0) + 1
        finally:
            await connection.close()
        return found

    counted: dict[str, int] = millrace.stack.run(count())
    return counted


def get(millrace: Any, path: str) -> Any:
    answer = millrace.http.get(f"/api/v1/executions{path}")
    assert answer.status_code == 200, answer.text
    return {name: value for name, value in answer.json().items() if name != "as_of"}


def listed(millrace: Any, execution_id: str) -> dict[str, Any] | None:
    return next((one for one in get(millrace, "?limit=100")["items"] if one["id"] == execution_id), None)


def answers(millrace: Any, execution_id: str, cursor: str) -> list[Any]:
    """Everything that is answered of an execution."""
    paths = ("", "/events", f"/events?limit=1&cursor={cursor}", "/timeline", "/why", f"/compare/{execution_id}")
    return [listed(millrace, execution_id), *(get(millrace, f"/{execution_id}{path}") for path in paths)]


@pytest.fixture(scope="module")
def running(millrace: Any) -> str:
    """An execution that waits; it began before the others."""
    execution_id: str = millrace.start(millrace.save({"name": "waits", "steps": WAITS}))

    def waits() -> bool:
        return any(one["status"] == "waiting" for one in millrace.detail(execution_id)["step_executions"])

    until(waits, "it waits")
    return execution_id


Before = dict[str, tuple[str, list[Any]]]
"""By execution: a cursor that a client got with a page of events, and everything that was answered."""


@pytest.fixture(scope="module")
def before(millrace: Any, running: str) -> Before:
    """What was answered of executions that ended. Their logs are compacted now."""
    workflow = millrace.save({"name": "fails", "steps": STEPS})
    shown: Before = {}
    for execution_id in [millrace.start(workflow) for _ in range(COUNT)]:
        assert execution_id != running
        assert millrace.ended(execution_id)["status"] == "failed"
        until(lambda one=execution_id: (listed(millrace, one) or {}).get("status") == "failed", "it is listed")
        cursor = get(millrace, f"/{execution_id}/events?limit=1")["next_cursor"]
        assert cursor is not None
        shown[execution_id] = (cursor, answers(millrace, execution_id, cursor))
    until(lambda: all(messages(millrace)[one] == 1 for one in shown), "the logs are compacted")
    return shown


def assert_same(millrace: Any, before: Before) -> None:
    for execution_id, (cursor, shown) in before.items():
        assert answers(millrace, execution_id, cursor) == shown


def test_everything_is_answered_as_before_and_old_cursors_go_on(millrace: Any, before: Before) -> None:
    assert_same(millrace, before)


def test_it_can_be_retried_forked_and_replayed(millrace: Any, before: Before) -> None:
    execution_id = next(iter(before))
    for path, body in (("retry", {}), ("fork", {"from_step": "b"}), ("replay", {})):
        answer = millrace.http.post(f"/api/v1/executions/{execution_id}/{path}", json=body)
        assert answer.status_code == 202, answer.text
        detail = millrace.ended(answer.json()["execution_id"])
        assert [one["status"] for one in detail["step_executions"]] == ["completed", "completed", "failed"]


def test_rebuilt_tables_show_the_same_with_the_same_numbers(millrace: Any, before: Before) -> None:
    command = [sys.executable, "-m", "millrace_telemetry", "rebuild"]
    environment = millrace.stack.stack.service_environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert_same(millrace, before)


def test_an_execution_that_runs_is_untouched_however_old(millrace: Any, before: Before, running: str) -> None:
    assert messages(millrace)[running] > 1
    answer = millrace.http.post(f"/api/v1/executions/{running}/steps/ok/approve", json={})
    assert answer.status_code == 200, answer.text
    assert millrace.ended(running)["status"] == "completed"
    until(lambda: max(messages(millrace).values()) < SHORT, "every log that is not short is one message now")
    found = messages(millrace)
    assert [found[one] for one in [*before, running]] == [1] * (COUNT + 1)
