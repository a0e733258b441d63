"""The result cache over HTTP: a hit costs nothing, and the timeline shows it."""

from __future__ import annotations

from typing import Any

ATTEMPT = "millrace_agent_runner.functions.testing:attempt"


def step_of(detail: dict[str, Any]) -> dict[str, Any]:
    step: dict[str, Any] = detail["step_executions"][0]
    return step


def save(millrace: Any, name: str, **cache: Any) -> None:
    step = {"python": ATTEMPT, "cache": {"ttl": "1h", **cache}}
    definition = {"name": name, "inputs": {"q": {"type": "string"}}, "steps": {"ask": step}}
    millrace.save({**definition, "outputs": {"by": "${{ steps.ask.output.execution_id }}"}})


def test_the_second_execution_gets_what_the_first_one_paid_for(millrace: Any) -> None:
    save(millrace, "kept")
    first, second = millrace.run("kept", {"q": "a"}), millrace.run("kept", {"q": "b"})
    assert first["results"] == second["results"] == {"by": first["id"]}
    assert (step_of(first)["cached"], step_of(second)["cached"]) == (False, True)
    timeline = millrace.http.get(f"/api/v1/executions/{second['id']}/timeline").json()
    assert timeline["step_timeline"][0]["cached"] is True


def test_a_key_tells_results_apart(millrace: Any) -> None:
    save(millrace, "kept-by-key", key="${{ inputs.q }}")
    a, b, again = (millrace.run("kept-by-key", {"q": q}) for q in ("a", "b", "a"))
    assert a["results"] != b["results"]
    assert again["results"] == a["results"]


def test_a_step_without_a_cache_is_performed_every_time(millrace: Any) -> None:
    definition = {"name": "not-kept", "steps": {"ask": {"python": ATTEMPT}}}
    millrace.save({**definition, "outputs": {"by": "${{ steps.ask.output.execution_id }}"}})
    first, second = millrace.run("not-kept"), millrace.run("not-kept")
    assert first["results"] != second["results"]
