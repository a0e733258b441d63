"""Steering over HTTP, as the tests of steering and of starting anew do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx


def post(millrace: Any, execution_id: str, path: str, **body: Any) -> httpx.Response:
    answer: httpx.Response = millrace.http.post(f"/api/v1/executions/{execution_id}/{path}", json=body)
    return answer


def done(answer: httpx.Response, status: str) -> None:
    assert (answer.status_code, answer.json().get("status")) == (200, status), answer.text


def problem(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, str(answer.json().get("code"))


def new(answer: httpx.Response) -> str:
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


def step(millrace: Any, execution_id: str, step_id: str) -> dict[str, Any]:
    steps = millrace.detail(execution_id)["step_executions"]
    return next(one for one in steps if one["step_id"] == step_id)


def waits(millrace: Any, execution_id: str, step_id: str, reason: str) -> Callable[[], bool]:
    def look() -> bool:
        found = step(millrace, execution_id, step_id)
        return bool(found["status"] == "waiting" and found["reason"] == reason)

    return look


def events(millrace: Any, execution_id: str) -> list[dict[str, Any]]:
    answer = millrace.http.get(f"/api/v1/executions/{execution_id}/events?limit=1000")
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def ran(millrace: Any, execution_id: str) -> list[str]:
    """Return the steps that were performed, rather than taken over."""
    performed = {"step.scheduled", "step.completed", "step.waiting", "step.expanded"}
    return list(dict.fromkeys(one["step"] for one in events(millrace, execution_id) if one["type"] in performed))


def reused(millrace: Any, execution_id: str) -> list[str]:
    return [one["step"] for one in events(millrace, execution_id) if one["type"] == "step.reused"]
