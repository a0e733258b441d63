"""What was accepted can be read at once, and large values pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

FIB = {"python": "millrace_agent_runner.functions:fib", "input": {"n": 1}}
PAYLOAD = "millrace_agent_runner.functions.testing:payload"


def test_a_thousand_executions_are_never_unknown_after_their_acceptance(millrace: Any) -> None:
    workflow = millrace.save({"name": "quick", "steps": {"a": FIB}})

    def start_and_read(_: int) -> int:
        execution_id = millrace.start(workflow)
        status: int = millrace.http.get(f"/api/v1/executions/{execution_id}").status_code
        return status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(start_and_read, range(1_000)))
    assert statuses == [200] * 1_000


def test_five_megabytes_pass_from_step_to_step(millrace: Any) -> None:
    size = 5_000_000
    workflow = millrace.save(
        {
            "name": "large",
            "steps": {
                "make": {"python": PAYLOAD, "input": {"size_bytes": size}},
                "pass": {
                    "needs": ["make"],
                    "python": "millrace_agent_runner.functions:echo",
                    "input": {"input": "${{ steps.make.output }}"},
                },
                "look": {"needs": ["pass"], "transform": {"length": "${{ size(string(steps.pass.output)) }}"}},
            },
            "outputs": {"whole": "${{ steps.pass.output }}"},
        }
    )
    detail = millrace.run(workflow)
    assert [one["status"] for one in detail["step_executions"]][:2] == ["completed", "completed"], detail
    answer = millrace.http.get(f"/api/v1/executions/{detail['id']}/steps/pass")
    assert answer.status_code == 200
    assert len(answer.content) > size


def test_two_hundred_megabytes_are_refused_with_what_to_do(millrace: Any) -> None:
    workflow = millrace.save(
        {"name": "too-large", "steps": {"make": {"python": PAYLOAD, "input": {"size_bytes": 200_000_000}}}}
    )
    detail = millrace.run(workflow)
    assert detail["status"] == "failed"
    assert detail["error"]["category"] == "value_too_large"
    assert "64 MiB" in detail["error"]["message"]


@pytest.mark.parametrize("name", ["once", "again"])
def test_an_execution_name_stands_for_one_execution(millrace: Any, name: str) -> None:
    workflow = millrace.save({"name": "quick", "inputs": {"n": {"type": "integer", "default": 1}}, "steps": {"a": FIB}})
    body = {"workflow": workflow, "execution_name": name, "input": {"n": 1}}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: millrace.http.post("/api/v1/executions", json=body), range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [202]
    assert len({answer.json().get("execution_id") or answer.json()["id"] for answer in answers}) == 1
    other = millrace.http.post("/api/v1/executions", json={**body, "input": {"n": 2}})
    assert (other.status_code, other.json()["code"]) == (409, "execution_name_conflict")
