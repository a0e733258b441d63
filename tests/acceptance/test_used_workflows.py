"""The workflows that a workflow uses: which versions, and that they exist."""

from __future__ import annotations

from typing import Any

from steering import done, post, problem, waits

from millrace_shared.testing.waiting import until


def test_an_execution_keeps_the_versions_of_the_workflows_it_uses(millrace: Any) -> None:
    def leaf(value: int) -> None:
        millrace.save({"name": "used-leaf", "steps": {"a": {"transform": value}}, "outputs": {"v": value}})

    leaf(1)
    steps = {
        "wait": {"wait": {"signal": "go"}},
        "call": {"needs": ["wait"], "workflow": "used-leaf"},
    }
    top = millrace.save({"name": "using", "steps": steps, "outputs": {"v": "${{ steps.call.output.v }}"}})
    execution_id = millrace.start(top)
    until(waits(millrace, execution_id, "wait", "signal"))
    leaf(2)
    done(post(millrace, execution_id, "signal", name="go"), "received")
    assert millrace.ended(execution_id)["results"] == {"v": 1}
    until(lambda: millrace.http.get(f"/api/v1/executions?parent_id={execution_id}").json()["items"])
    listed = millrace.http.get("/api/v1/executions?limit=100").json()["items"]
    assert all(one["parent_id"] is None for one in listed)


def test_an_unknown_workflow_is_refused_when_it_is_saved(millrace: Any) -> None:
    definition = {"name": "using-nothing", "steps": {"call": {"workflow": "nobody-s"}}}
    answer = millrace.http.put("/api/v1/workflows/using-nothing", json=definition)
    assert problem(answer) == (422, "workflow_invalid")
    assert answer.json()["errors"][0]["loc"] == "steps.call.workflow"
