"""Executions made of executions: sub-workflows, groups, loops, nested lists and dynamic plans, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from millrace_shared.testing.waiting import until

ECHO = "millrace_agent_runner.functions:echo"
CRASH = "millrace_agent_runner.functions.testing:crash"
DEPTH = 500
ITEMS = 10_000


def children(millrace: Any, execution_id: str, count: int = 1) -> list[dict[str, Any]]:
    """Return the executions below another one, once as many as `count` are listed."""
    items: list[dict[str, Any]] = []

    def are_listed() -> bool:
        nonlocal items
        answer = millrace.http.get("/api/v1/executions", params={"parent_id": execution_id, "limit": 100})
        items = answer.json()["items"]
        return len(items) >= count

    until(are_listed, f"{execution_id} to have {count} children: {items}")
    return items


def first_child(millrace: Any, execution_id: str) -> str:
    return str(children(millrace, execution_id)[0]["id"])


def step(detail: dict[str, Any], step_id: str) -> dict[str, Any]:
    return next(one for one in detail["step_executions"] if one["step_id"] == step_id)


def double(millrace: Any) -> str:
    return str(
        millrace.save(
            {
                "name": "double",
                "inputs": {"n": {"type": "integer"}, "times": {"type": "integer", "default": 2}},
                "steps": {"work": {"python": ECHO, "input": {"input": "${{ inputs.n * inputs.times }}"}}},
                "outputs": {"n": "${{ steps.work.output }}"},
            }
        )
    )


def test_a_workflow_runs_another_one(millrace: Any) -> None:
    double(millrace)
    millrace.save(
        {
            "name": "parent",
            "steps": {
                "one": {"workflow": "double", "input": {"n": 3}},
                "two": {
                    "needs": ["one"],
                    "workflow": "double",
                    "input": {"n": "${{ steps.one.output.n }}", "times": 5},
                },
            },
            "outputs": {"n": "${{ steps.two.output.n }}"},
        }
    )
    detail = millrace.run("parent")
    assert (detail["status"], detail["results"]) == ("completed", {"n": 30})
    child = millrace.detail(step(detail, "one")["child_execution_id"])
    assert (child["parent_id"], child["workflow_id"] == detail["workflow_id"]) == (detail["id"], False)
    assert child["results"] == {"n": 6}


def test_a_running_parent_keeps_the_version_that_its_child_had_when_it_began(millrace: Any) -> None:
    millrace.save({"name": "keeps", "steps": {"a": {"transform": 1}}, "outputs": {"v": 1}})
    steps = {"wait": {"wait": {"signal": "go"}}, "child": {"needs": ["wait"], "workflow": "keeps"}}
    millrace.save({"name": "keeper", "steps": steps, "outputs": {"v": "${{ steps.child.output.v }}"}})
    first = millrace.start("keeper")
    millrace.begun(first)
    millrace.save({"name": "keeps", "steps": {"a": {"transform": 1}}, "outputs": {"v": 2}})
    second = millrace.start("keeper")
    millrace.begun(second)
    for execution_id in (first, second):
        assert millrace.http.post(f"/api/v1/executions/{execution_id}/signal", json={"name": "go"}).status_code == 200
    assert [millrace.ended(one)["results"] for one in (first, second)] == [{"v": 1}, {"v": 2}]


def test_a_child_that_is_given_the_wrong_input_fails_its_step_and_says_why(millrace: Any) -> None:
    double(millrace)
    millrace.save({"name": "wrong", "steps": {"one": {"workflow": "double", "input": {"n": "many"}}}})
    detail = millrace.run("wrong")
    assert detail["status"] == "failed"
    assert detail["error"]["code"] == "input_invalid"
    assert "input.n" in detail["error_message"]


def test_a_child_that_fails_is_tried_again_as_another_execution(millrace: Any) -> None:
    group = {"steps": {"a": {"python": CRASH}}}
    retry = {"max_attempts": 3, "initial": 0, "errors": ["user_code"]}
    millrace.save({"name": "again", "steps": {"g": {"group": group, "retry": retry}}})
    detail = millrace.run("again")
    assert (detail["status"], step(detail, "g")["retry_count"]) == ("failed", 2)
    ended = [millrace.ended(one["id"]) for one in children(millrace, detail["id"], 3)]  # a list may lag behind
    assert [one["status"] for one in ended] == ["failed"] * 3


def test_nested_lists(millrace: Any) -> None:
    inner = {
        "steps": {
            "cell": {
                "for_each": "${{ inputs.row }}",
                "python": ECHO,
                "input": {"input": "${{ item * inputs.factor }}"},
            }
        },
        "outputs": {"cells": "${{ steps.cell.output }}"},
    }
    rows = {"for_each": [[1, 2, 3], [], [4]], "input": {"row": "${{ item }}", "factor": 10}, "group": inner}
    millrace.save({"name": "nested", "steps": {"rows": rows}, "outputs": {"rows": "${{ steps.rows.output }}"}})
    assert millrace.run("nested")["results"] == {"rows": [{"cells": [10, 20, 30]}, {"cells": []}, {"cells": [40]}]}


def test_a_loop_goes_on_until_its_condition_holds(millrace: Any) -> None:
    body = {
        "steps": {"write": {"python": ECHO, "input": {"input": "${{ inputs.draft + '!' }}"}}},
        "outputs": {"draft": "${{ steps.write.output }}"},
    }
    improve = {
        "input": {"draft": "${{ iteration == 1 ? 'text' : previous.draft }}"},
        "group": body,
        "repeat": {"until": "size(output.draft) >= 7", "max": 10},
    }
    millrace.save(
        {"name": "loop", "steps": {"improve": improve}, "outputs": {"draft": "${{ steps.improve.output.draft }}"}}
    )
    detail = millrace.run("loop")
    assert detail["results"] == {"draft": "text!!!"}
    assert len(children(millrace, detail["id"], 3)) == 3


def test_a_loop_that_may_fail_at_its_end(millrace: Any) -> None:
    repeat = {"until": "output > 5", "max": 3, "on_max": "fail"}
    tick = {"python": ECHO, "input": {"input": "${{ iteration }}"}, "repeat": repeat}
    millrace.save({"name": "exhausted", "steps": {"tick": tick}})
    detail = millrace.run("exhausted")
    assert (detail["status"], detail["error"]["code"]) == ("failed", "repeat_exhausted")


def test_a_plan_made_while_running_is_validated_and_run(millrace: Any) -> None:
    plan = {
        "steps": {
            "a": {"transform": "$" + "{{ inputs.n + 1 }}"},
            "b": {"needs": ["a"], "python": ECHO, "input": {"input": "$" + "{{ steps.a.output * 2 }}"}},
        }
    }
    millrace.save(
        {
            "name": "planner",
            "inputs": {"plan": {"type": "object"}},
            "steps": {
                "think": {"python": ECHO, "input": {"input": "${{ inputs.plan }}"}},
                "act": {"needs": ["think"], "plan": "${{ steps.think.output }}", "input": {"n": 20}},
            },
            "outputs": {"b": "${{ steps.act.output.b }}"},
        }
    )
    detail = millrace.run("planner", {"plan": plan})
    assert (detail["status"], detail["results"]) == ("completed", {"b": 42})
    bad = millrace.run("planner", {"plan": {"steps": {"a": {"needs": ["nobody"], "transform": 1}}}})
    assert (bad["status"], bad["error"]["code"]) == ("failed", "plan_invalid")
    assert "nobody" in bad["error_message"]


def test_a_cancel_reaches_what_runs_below(millrace: Any) -> None:
    sleep = {"steps": {"nap": {"wait": {"delay": "1h"}}, "tidy": {"needs": ["nap"], "run": "always", "transform": 1}}}
    outer = {"steps": {"inner": {"group": sleep}}}
    millrace.save({"name": "deep-cancel", "steps": {"outer": {"group": outer}}})
    execution_id = millrace.start("deep-cancel")
    below = first_child(millrace, first_child(millrace, execution_id))
    assert millrace.http.post(f"/api/v1/executions/{execution_id}/cancel").status_code == 202
    assert millrace.ended(execution_id)["status"] == "cancelled"
    detail = millrace.ended(below)
    assert detail["status"] == "cancelled"
    assert step(detail, "tidy")["status"] == "completed"


def test_a_pause_reaches_what_runs_below(millrace: Any) -> None:
    inner = {"steps": {"gate": {"wait": {"signal": "go"}}, "after": {"needs": ["gate"], "transform": 1}}}
    millrace.save({"name": "deep-pause", "steps": {"g": {"group": inner}}})
    execution_id = millrace.start("deep-pause")
    child = first_child(millrace, execution_id)
    assert millrace.http.post(f"/api/v1/executions/{execution_id}/pause").status_code == 200
    until(lambda: millrace.detail(child)["status"] == "paused", f"{child} to be paused")
    assert millrace.http.post(f"/api/v1/executions/{child}/signal", json={"name": "go"}).status_code == 200
    assert step(millrace.detail(child), "after")["status"] == "pending"
    assert millrace.http.post(f"/api/v1/executions/{execution_id}/resume").status_code == 200
    assert millrace.ended(execution_id)["status"] == "completed"


def test_compensation_and_cleanup_run_when_a_child_fails(millrace: Any) -> None:
    millrace.save(
        {
            "name": "compensated",
            "steps": {
                "book": {"transform": "booked"},
                "pay": {"needs": ["book"], "group": {"steps": {"charge": {"python": CRASH}}}},
                "unbook": {"needs": ["pay"], "run": "on_failure", "transform": "${{ steps.book.output }}"},
                "close": {"needs": ["pay"], "run": "always", "transform": "closed"},
            },
        }
    )
    detail = millrace.run("compensated")
    assert detail["status"] == "failed"
    assert {one["step_id"]: one["status"] for one in detail["step_executions"]} == {
        "book": "completed",
        "pay": "failed",
        "unbook": "completed",
        "close": "completed",
    }


def test_a_workflow_may_run_itself_as_deep_as_the_limit(millrace: Any) -> None:
    down = {"when": "inputs.n > 0", "workflow": "recursive", "input": {"n": "${{ inputs.n - 1 }}"}}
    definition = {
        "name": "recursive",
        "limits": {"timeout": "10m"},
        "inputs": {"n": {"type": "integer"}},
        "steps": {"down": down},
        "outputs": {"bottom": "${{ steps.down.status == 'skipped' ? inputs.n : steps.down.output.bottom }}"},
    }
    millrace.save(definition)
    detail = millrace.ended(millrace.start("recursive", {"n": DEPTH}), deadline_s=180)
    assert (detail["status"], detail["results"]) == ("completed", {"bottom": 0})
    deeper = millrace.ended(millrace.start("recursive", {"n": DEPTH + 1}), deadline_s=180)
    assert (deeper["status"], deeper["error"]["code"]) == ("failed", "too_deep")


@pytest.mark.slow
def test_a_list_of_ten_thousand_items(millrace: Any) -> None:
    each = {"for_each": "${{ inputs.items }}", "python": ECHO, "input": {"input": "${{ item }}"}}
    millrace.save(
        {
            "name": "ten-thousand",
            "limits": {"timeout": "10m"},
            "inputs": {"items": {"type": "array"}},
            "steps": {"each": each, "count": {"needs": ["each"], "transform": "${{ size(steps.each.output) }}"}},
            "outputs": {"count": "${{ steps.count.output }}"},
        }
    )
    detail = millrace.ended(millrace.start("ten-thousand", {"items": list(range(ITEMS))}), deadline_s=300)
    assert (detail["status"], detail["results"]) == ("completed", {"count": ITEMS})
