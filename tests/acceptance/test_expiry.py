"""Logs that have expired: what they came to is still answered, and what needs them says so."""

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
from millrace_shared.bus.log_reader import holds_any
from millrace_shared.testing.waiting import until

KEY = "acceptance-test-key"
RETENTION_S = 3.0
DAY_S = 86_400
FAIL = {"python": "millrace_agent_runner.functions.testing:fail", "input": {"retryable": False}}
STEPS = {"a": {"transform": 1}, "b": {"needs": ["a"], **FAIL}}
WAITS = {"ok": {"approval": {"message": "Publish?"}}}


@pytest.fixture(scope="module")
def millrace(server_directory: Callable[[], Path], product: Any) -> Iterator[Any]:
    """A stack that keeps the logs of what has ended for seconds."""
    environment = {
        "MILLRACE_PYTHON_MODULES": "millrace_agent_runner.functions",
        "MILLRACE_LOG_RETENTION_DAYS": f"{RETENTION_S / DAY_S:.8f}",
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


@pytest.fixture(scope="module")
def running(millrace: Any) -> str:
    """An execution that waits; it began before the others."""
    execution_id: str = millrace.start(millrace.save({"name": "waits", "steps": WAITS}))
    millrace.begun(execution_id)
    return execution_id


@pytest.fixture(scope="module")
def before(millrace: Any, running: str) -> dict[str, Any]:
    """What was answered of an execution that failed, while it had a log. Its log has expired."""
    detail: dict[str, Any] = millrace.run(millrace.save({"name": "fails", "steps": STEPS}))
    assert detail["status"] == "failed"
    assert has_log(millrace, running)
    until(lambda: not has_log(millrace, detail["id"]), "the log is removed")
    until(lambda: listed(millrace, detail["id"]) is not None, "it is listed")
    return detail


def has_log(millrace: Any, execution_id: str) -> bool:
    async def look() -> bool:
        connection = await connect(millrace.stack.nats_url, "test")
        try:
            return await holds_any(connection, "EVENTS", subjects.log(execution_id))
        finally:
            await connection.close()

    found: bool = millrace.stack.run(look())
    return found


def listed(millrace: Any, execution_id: str) -> dict[str, Any] | None:
    answer = millrace.http.get("/api/v1/executions?limit=100")
    assert answer.status_code == 200, answer.text
    return next((one for one in answer.json()["items"] if one["id"] == execution_id), None)


def get(millrace: Any, execution_id: str, path: str) -> httpx.Response:
    answer: httpx.Response = millrace.http.get(f"/api/v1/executions/{execution_id}/{path}")
    return answer


def assert_shown(millrace: Any, before: dict[str, Any]) -> None:
    """The detail, the list, the time line and `why` say what the execution came to."""
    detail = millrace.detail(before["id"])
    for name in ("status", "error", "results", "input_variables", "started_at", "completed_at"):
        assert detail[name] == before[name], name
    assert [(one["step_id"], one["status"]) for one in detail["step_executions"]] == [
        ("a", "completed"),
        ("b", "failed"),
    ]
    found = listed(millrace, before["id"])
    assert found is not None
    assert (found["status"], found["execution_number"]) == ("failed", 1)
    timeline = get(millrace, before["id"], "timeline")
    assert timeline.status_code == 200
    assert [one["step_id"] for one in timeline.json()["step_timeline"]] == ["a", "b"]
    why = get(millrace, before["id"], "why")
    assert why.status_code == 200
    assert why.json()["message"].startswith("it has ended: failed at ")


def test_what_it_came_to_is_answered_as_before(millrace: Any, before: dict[str, Any]) -> None:
    assert_shown(millrace, before)


def test_what_is_read_from_the_log_says_that_it_has_expired(millrace: Any, before: dict[str, Any]) -> None:
    answer = get(millrace, before["id"], "events")
    assert (answer.status_code, answer.json()["code"]) == (410, "log_expired")
    assert "its log was removed" in answer.json()["detail"]


def test_it_can_be_retried_forked_and_compared_by_what_is_projected(millrace: Any, before: dict[str, Any]) -> None:
    ids = [before["id"]]
    for path, body in (("retry", {}), ("fork", {"from_step": "b"}), ("replay", {})):
        answer = millrace.http.post(f"/api/v1/executions/{before['id']}/{path}", json=body)
        assert answer.status_code == 202, answer.text
        ids.append(answer.json()["execution_id"])
        detail = millrace.ended(ids[-1])
        assert (detail["status"], detail["step_executions"][0]["status"]) == ("failed", "completed")
    until(lambda: not any(has_log(millrace, one) for one in ids), "those logs are removed, too")
    answer = get(millrace, ids[0], f"compare/{ids[1]}")
    assert answer.status_code == 200, answer.text
    for path in ("pause", "cancel"):
        answer = millrace.http.post(f"/api/v1/executions/{before['id']}/{path}", json={})
        assert (answer.status_code, answer.json()["code"]) == (409, "execution_already_finished")


def test_rebuilt_tables_still_show_it(millrace: Any, before: dict[str, Any], running: str) -> None:
    command = [sys.executable, "-m", "millrace_telemetry", "rebuild"]
    environment = millrace.stack.stack.service_environment()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert_shown(millrace, before)
    until(lambda: listed(millrace, running) is not None, "the one that runs is read back")


def test_an_execution_that_runs_is_untouched_however_old(millrace: Any, before: dict[str, Any], running: str) -> None:
    assert before["id"] != running
    assert has_log(millrace, running)
    events = get(millrace, running, "events").json()["items"]
    assert events[0]["type"] == "execution.started"
    answer = millrace.http.post(f"/api/v1/executions/{running}/steps/ok/approve", json={})
    assert answer.status_code == 200, answer.text
    assert millrace.ended(running)["status"] == "completed"
    until(lambda: not has_log(millrace, running), "now its log expires, too")
