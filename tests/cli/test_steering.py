"""Steering from the command line: what is typed, what is sent, and what is printed. Real ones: tests/acceptance."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from millrace.cli import derivation, steering
from millrace.cli.main import app
from millrace.client import Client

DEFINITION = {"inputs": {"n": {"type": "integer"}, "who": {"type": "string"}}}
ANSWERS: dict[str, dict[str, Any]] = {
    "pause": {"execution_id": "e", "status": "paused"},
    "resume": {"execution_id": "e", "status": "running"},
    "signal": {"execution_id": "e", "signal": "paid", "id": "s", "status": "received"},
    "approve": {"execution_id": "e", "step_id": "ok", "item": None, "status": "approved"},
    "reject": {"execution_id": "e", "step_id": "ok", "item": None, "status": "rejected"},
    "continue": {"execution_id": "e", "step_id": "ok", "item": None, "status": "continued"},
    "cancel": {"execution_id": "e", "status": "cancelling"},
    "retry": {"execution_id": "new", "status": "pending"},
    "replay": {"execution_id": "new", "status": "pending"},
    "fork": {"execution_id": "new", "status": "pending"},
}
BULK = {
    "matched": 5,
    "done": [{"execution_id": "a", "new_execution_id": "b"}],
    "refused": [{"execution_id": "c", "code": "already_retried", "detail": "execution d is the retry of it"}],
    "dry_run": False,
}


class Api(httpx.BaseTransport):
    """Answers as the api does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v1")
        self.asked.append((f"{request.method} {path}", json.loads(request.content or b"null")))
        if path == "/executions/e":
            return httpx.Response(200, json={"workflow_id": "w", "input_variables": {"n": 1, "who": "you"}})
        if path == "/workflows/w":
            return httpx.Response(200, json={"definition": DEFINITION})
        return httpx.Response(200, json=BULK if "bulk" in path else ANSWERS[path.rpartition("/")[2]])


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    api = Api()
    for module in (steering, derivation):
        monkeypatch.setattr(module, "open_client", lambda *_: Client("http://api", "key", transport=api))
    return api


@pytest.fixture
def run() -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(app, ["executions", *arguments])


CASES: list[tuple[list[str], str, dict[str, Any], str]] = [
    (["pause", "e", "--reason", "look"], "POST /executions/e/pause", {"reason": "look"}, "e is paused"),
    (["resume", "e"], "POST /executions/e/resume", {}, "e is running"),
    (
        ["signal", "e", "paid", "--data", '{"n": 1}', "--id", "s"],
        "POST /executions/e/signal",
        {"name": "paid", "data": {"n": 1}, "id": "s"},
        "paid received",
    ),
    (["signal", "e", "paid", "--data", "text"], "POST /executions/e/signal", {"name": "paid", "data": "text"}, "paid"),
    (
        ["approve", "e", "ok", "--note", "fine", "--data", "[1]", "--item", "2"],
        "POST /executions/e/steps/ok/approve",
        {"note": "fine", "data": [1], "item": 2},
        "ok approved",
    ),
    (["reject", "e", "ok"], "POST /executions/e/steps/ok/reject", {}, "ok rejected"),
    (
        ["continue", "e", "ok", "--input", '{"a": 1}'],
        "POST /executions/e/steps/ok/continue",
        {"input": {"a": 1}},
        "ok continued",
    ),
    (["cancel", "e", "--reason", "x"], "POST /executions/e/cancel", {"reason": "x"}, "e is being cancelled"),
    (
        ["retry", "e", "--name", "again", "--breakpoint", "*"],
        "POST /executions/e/retry",
        {"execution_name": "again", "breakpoints": ["*"]},
        "new",
    ),
    (["replay", "e"], "POST /executions/e/replay", {}, "new"),
    (
        ["fork", "e", "--from", "b", "--version", "2"],
        "POST /executions/e/fork",
        {"from_step": "b", "version": 2},
        "new",
    ),
    (
        ["fork", "e", "--from", "b", "-i", "n=5"],
        "POST /executions/e/fork",
        {"from_step": "b", "input": {"n": 5, "who": "you"}},
        "new",
    ),
    (
        ["retry", "--all", "--workflow", "w", "--label", "team:a", "--label", "x", "--status", "timeout"],
        "POST /executions/bulk/retry",
        {
            "workflow": "w",
            "labels": {"team": "a", "x": None},
            "statuses": ["timeout"],
            "limit": 100,
            "dry_run": False,
        },
        "a is retried: b",
    ),
    (
        ["cancel", "--all", "--workflow", "w", "--limit", "7", "--dry-run", "--reason", "x"],
        "POST /executions/bulk/cancel",
        {"workflow": "w", "limit": 7, "dry_run": True, "reason": "x"},
        "a is being cancelled",
    ),
]


@pytest.mark.parametrize(("arguments", "asked", "body", "said"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_what_is_typed_is_what_is_asked(
    api: Api, run: Callable[..., Any], arguments: list[str], asked: str, body: dict[str, Any], said: str
):
    ran = run(*arguments)
    assert ran.exit_code == 0, ran.output
    assert api.asked[-1] == (asked, body)
    assert said in ran.stdout


def test_programs_get_json(api: Api, run: Callable[..., Any]):
    assert json.loads(run("pause", "e", "--json").stdout) == ANSWERS["pause"]
    assert json.loads(run("retry", "--all", "--workflow", "w", "--json").stdout) == BULK


def test_of_many_it_says_what_was_not_done_and_what_is_left(api: Api, run: Callable[..., Any]):
    ran = run("retry", "--all", "--workflow", "w")
    assert "c already_retried: execution d is the retry of it" in ran.stderr
    assert "1 retried, 1 refused; 3 more match" in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["cancel"],
        ["cancel", "e", "--all", "--workflow", "w"],
        ["cancel", "--all"],
        ["retry", "e", "--workflow", "w"],
        ["retry", "--all", "--workflow", "w", "--name", "x"],
    ],
    ids=" ".join,
)
def test_one_or_all_of_something(api: Api, run: Callable[..., Any], arguments: list[str]):
    assert run(*arguments).exit_code == 2
    assert api.asked == []


def test_a_large_input_is_not_changed_in_part(api: Api, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    stored = {"stored": True, "size_bytes": 9, "sha256": "f" * 64}
    monkeypatch.setattr(Client, "execution", lambda *_: {"workflow_id": "w", "input_variables": stored})
    ran = run("fork", "e", "--from", "b", "-i", "n=5")
    assert ran.exit_code == 1
    assert "--input-file" in ran.stderr


def test_a_comparison_shows_steps_and_differences(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    side = {"status": "completed", "duration": 1.5, "retry_count": 0, "tokens_used": 0, "cost_usd": 0.0}
    changed = {"path": "/n", "kind": "changed", "a": 1, "b": 2}
    comparison = {
        "a": {**side, "id": "a", "workflow_id": "w", "workflow_version": 1},
        "b": {**side, "id": "b", "workflow_id": "w", "workflow_version": 2},
        "same_workflow": True,
        "same_definition": False,
        "same_input": False,
        "same_results": True,
        "input_differences": [changed],
        "result_differences": [],
        "steps": [
            {"step_id": "x", "a": side, "b": None, "same_output": False, "output_differences": [changed]},
            {"step_id": "y", "a": side, "b": side, "same_output": True, "output_differences": []},
        ],
    }
    monkeypatch.setattr(Client, "compare", lambda *_: comparison)
    monkeypatch.setattr(derivation, "open_client", lambda *_: Client("http://api", "key"))
    said = run("compare", "a", "b").stdout
    assert "differs in 1" in said
    assert "same" in said
    assert "input /n changed: 1 → 2" in said
    assert "versions 1 and 2" in said
