"""Steering what runs, and starting anew from what ran, over HTTP against the whole product."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

FIB = {"python": "millrace_agent_runner.functions:fib", "input": {"n": 10}}
DEADLINE_S = 30.0
STEPS = {"a": {"transform": 1}, "b": {"needs": ["a"], "transform": "${{ steps.a.output + 1 }}"}}
FORKING: dict[str, Any] = {
    "name": "forking",
    "inputs": {"n": {"type": "integer", "default": 1}},
    "steps": {
        "a": {"python": "millrace_agent_runner.functions:echo", "input": {"input": "${{ inputs.n }}"}},
        "b": {"needs": ["a"], "transform": "${{ steps.a.output + inputs.n }}"},
        "c": {"needs": ["b"], "transform": "${{ steps.b.output * 10 }}"},
    },
    "outputs": {"c": "${{ steps.c.output }}"},
}
FORM = {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number", "maximum": 10}}}


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Wait until something is so; return it."""

    def wait(condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            found = condition()
            if found:
                return found
            assert time.monotonic() < deadline
            time.sleep(0.02)

    return wait


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


@pytest.fixture(scope="module")
def pausing(millrace: Any) -> str:
    steps = {"paid": {"wait": {"signal": "payment"}}, "ship": {"needs": ["paid"], **FIB}}
    saved: str = millrace.save({"name": "pausing", "steps": steps, "outputs": {"n": "${{ steps.ship.output }}"}})
    return saved


@pytest.fixture(scope="module")
def approving(millrace: Any) -> str:
    ok = {"approval": {"message": "Pay ${{ inputs.what }}?", "form": FORM, "deadline": "1h"}}
    paid = {"needs": ["ok"], "transform": {"amount": "${{ steps.ok.output.data.amount }}"}}
    inputs = {"what": {"type": "string", "default": "it"}}
    saved: str = millrace.save({"name": "approving", "inputs": inputs, "steps": {"ok": ok, "paid": paid}})
    return saved


class TestPause:
    def test_nothing_new_starts_until_it_is_resumed(self, millrace: Any, pausing: str, until: Any) -> None:
        execution_id = millrace.start(pausing)
        until(waits(millrace, execution_id, "paid", "signal"))
        done(post(millrace, execution_id, "pause", reason="stocktaking"), "paused")
        assert millrace.detail(execution_id)["status"] == "paused"
        done(post(millrace, execution_id, "signal", name="payment", data={"n": 1}), "received")
        until(lambda: step(millrace, execution_id, "paid")["status"] == "completed")
        assert step(millrace, execution_id, "paid")["output_data"] == {"n": 1}
        assert step(millrace, execution_id, "ship")["status"] == "pending"
        assert "ship" not in ran(millrace, execution_id)
        done(post(millrace, execution_id, "resume"), "running")
        assert millrace.ended(execution_id)["results"] == {"n": 55}

    def test_of_many_who_pause_one_does_and_likewise_who_resume(self, millrace: Any, pausing: str, until: Any) -> None:
        execution_id = millrace.start(pausing)
        until(waits(millrace, execution_id, "paid", "signal"))
        for what, code in (("pause", "execution_already_paused"), ("resume", "execution_not_paused")):
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _, what=what: post(millrace, execution_id, what), range(8)))  # type: ignore[misc]
            assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
            assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {code}
        assert millrace.http.post(f"/api/v1/executions/{execution_id}/cancel").status_code == 202
        assert millrace.ended(execution_id)["status"] == "cancelled"
        for what in ("pause", "resume"):
            assert problem(post(millrace, execution_id, what)) == (409, "execution_already_finished")


class TestSignal:
    def test_one_that_comes_early_is_kept_and_its_id_makes_it_one(self, millrace: Any, until: Any) -> None:
        steps = {
            "first": {"wait": {"signal": "go"}},
            "second": {"needs": ["first"], "wait": {"signal": "payment"}},
            "third": {"needs": ["second"], "wait": {"signal": "payment"}},
        }
        execution_id = millrace.start(millrace.save({"name": "signalled", "steps": steps}))
        for _ in range(3):
            done(post(millrace, execution_id, "signal", name="payment", data=1, id="invoice-1"), "received")
        done(post(millrace, execution_id, "signal", name="go"), "received")
        until(waits(millrace, execution_id, "third", "signal"))
        assert step(millrace, execution_id, "second")["output_data"] == 1
        done(post(millrace, execution_id, "signal", name="payment", data=2, id="invoice-2"), "received")
        assert millrace.ended(execution_id)["status"] == "completed"
        assert step(millrace, execution_id, "third")["output_data"] == 2
        late = post(millrace, execution_id, "signal", name="payment", data=3, id="invoice-3")
        assert problem(late) == (409, "execution_already_finished")

    def test_an_unknown_one_changes_nothing(self, millrace: Any, until: Any) -> None:
        workflow = millrace.save({"name": "unsignalled", "steps": {"a": {"wait": {"signal": "payment"}}}})
        execution_id = millrace.start(workflow)
        until(waits(millrace, execution_id, "a", "signal"))
        before = events(millrace, execution_id)
        answer = post(millrace, execution_id, "signal", name="paymnet")
        assert problem(answer) == (404, "signal_unknown")
        assert 'did you mean "payment"?' in answer.json()["detail"]
        assert events(millrace, execution_id) == before


class TestApproval:
    def test_what_is_entered_goes_on_with_who_and_when(self, millrace: Any, approving: str, until: Any) -> None:
        execution_id = millrace.start(approving, {"what": "the rent"})
        until(waits(millrace, execution_id, "ok", "approval"))
        assert step(millrace, execution_id, "ok")["input_data"] == {"message": "Pay the rent?"}
        wrong = post(millrace, execution_id, "steps/ok/approve", data={"amount": 11})
        assert problem(wrong) == (422, "form_invalid")
        assert wrong.json()["errors"][0]["loc"] == ["body", "data", "amount"]
        done(post(millrace, execution_id, "steps/ok/approve", data={"amount": 7}, note="fine"), "approved")
        assert millrace.ended(execution_id)["status"] == "completed"
        output = step(millrace, execution_id, "ok")["output_data"]
        assert (output["approved"], output["by"], output["note"]) == (True, "api-key:bootstrap", "fine")
        assert (output["data"], output["at"][-1]) == ({"amount": 7}, "Z")
        assert step(millrace, execution_id, "paid")["output_data"] == {"amount": 7}
        again = post(millrace, execution_id, "steps/ok/approve", data={"amount": 7})
        assert problem(again) == (409, "already_decided")

    def test_of_many_answers_one_counts(self, millrace: Any, approving: str, until: Any) -> None:
        execution_id = millrace.start(approving)
        until(waits(millrace, execution_id, "ok", "approval"))

        def decide(number: int) -> httpx.Response:
            if number % 2:
                return post(millrace, execution_id, "steps/ok/approve", data={"amount": number % 10})
            return post(millrace, execution_id, "steps/ok/reject", note=str(number))

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(decide, range(16)))
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 15
        [won] = [answer.json()["status"] for answer in answers if answer.status_code == 200]
        status = "completed" if won == "approved" else "failed"
        assert millrace.ended(execution_id)["status"] == status
        assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"already_decided"}

    def test_a_rejection_may_complete_the_step(self, millrace: Any, until: Any) -> None:
        ok = {"approval": {"message": "?", "on_reject": "complete"}}
        no = {"needs": ["ok"], "when": "!steps.ok.output.approved", "transform": "sorry"}
        execution_id = millrace.start(millrace.save({"name": "rejecting", "steps": {"ok": ok, "no": no}}))
        until(waits(millrace, execution_id, "ok", "approval"))
        done(post(millrace, execution_id, "steps/ok/reject", note="too much"), "rejected")
        assert millrace.ended(execution_id)["status"] == "completed"
        assert step(millrace, execution_id, "no")["output_data"] == "sorry"

    def test_items_are_decided_one_by_one(self, millrace: Any, until: Any) -> None:
        each = {"for_each": ["a", "b"], "approval": {"message": "${{ item }}?"}}
        execution_id = millrace.start(millrace.save({"name": "approving-items", "steps": {"each": each}}))

        def both_wait() -> bool:
            items = millrace.http.get(f"/api/v1/executions/{execution_id}/steps/each").json().get("items") or []
            return [item["status"] for item in items] == ["waiting", "waiting"]

        until(both_wait)
        assert problem(post(millrace, execution_id, "steps/each/approve")) == (422, "request_invalid")
        assert problem(post(millrace, execution_id, "steps/each/approve", item=2)) == (404, "step_not_found")
        for item in (1, 0):
            done(post(millrace, execution_id, "steps/each/approve", item=item), "approved")
        assert millrace.ended(execution_id)["status"] == "completed"


class TestBreakpoints:
    def test_a_run_is_stepped_through_with_an_input_edited(self, millrace: Any, until: Any) -> None:
        echo = {"python": "millrace_agent_runner.functions:echo", "input": {"input": {"n": "${{ steps.b.output }}"}}}
        steps = {**STEPS, "c": {"needs": ["b"], **echo}}
        execution_id = millrace.start(millrace.save({"name": "stepping", "steps": steps}), breakpoints=["*"])
        until(waits(millrace, execution_id, "a", "breakpoint"))
        assert ran(millrace, execution_id) == ["a"]
        assert problem(post(millrace, execution_id, "steps/b/continue")) == (409, "step_not_waiting")
        done(post(millrace, execution_id, "steps/a/continue"), "continued")
        until(waits(millrace, execution_id, "b", "breakpoint"))
        done(post(millrace, execution_id, "steps/b/continue"), "continued")
        until(waits(millrace, execution_id, "c", "breakpoint"))
        assert step(millrace, execution_id, "c")["input_data"] == {"input": {"n": 2}}
        done(post(millrace, execution_id, "steps/c/continue", input={"input": {"n": 99}}), "continued")
        assert millrace.ended(execution_id)["status"] == "completed"
        assert step(millrace, execution_id, "c")["output_data"] == {"n": 99}
        assert problem(post(millrace, execution_id, "steps/c/continue")) == (409, "execution_already_finished")

    def test_a_breakpoint_at_no_step_is_refused(self, millrace: Any) -> None:
        body = {"workflow": millrace.save({"name": "no-stepping", "steps": STEPS}), "breakpoints": ["x"]}
        assert problem(millrace.http.post("/api/v1/executions", json=body)) == (422, "request_invalid")


class TestRetry:
    def test_it_goes_on_from_what_failed(self, millrace: Any, until: Any) -> None:
        steps = {
            "make": FIB,
            "ok": {"needs": ["make"], "approval": {"message": "?"}},
            "use": {"needs": ["ok"], "transform": "${{ steps.make.output + 1 }}"},
            "clean": {"needs": ["ok"], "run": "always", "transform": "cleaned"},
        }
        workflow = millrace.save({"name": "retrying", "steps": steps, "outputs": {"n": "${{ steps.use.output }}"}})
        old = millrace.start(workflow, labels={"team": "a"})
        assert problem(post(millrace, old, "retry")) == (409, "execution_not_finished")
        until(waits(millrace, old, "ok", "approval"))
        done(post(millrace, old, "steps/ok/reject"), "rejected")
        assert millrace.ended(old)["status"] == "failed"
        retry = new(post(millrace, old, "retry"))
        until(waits(millrace, retry, "ok", "approval"))
        done(post(millrace, retry, "steps/ok/approve"), "approved")
        detail = millrace.ended(retry)
        assert (detail["status"], detail["results"], detail["labels"]) == ("completed", {"n": 56}, {"team": "a"})
        assert (detail["origin"]["kind"], detail["origin"]["execution_id"]) == ("retry", old)
        assert reused(millrace, retry) == ["make"]
        assert ran(millrace, retry) == ["ok", "use", "clean"]
        assert problem(post(millrace, retry, "retry")) == (409, "execution_not_failed")

    def test_what_a_group_had_done_is_not_done_again(self, millrace: Any, until: Any) -> None:
        inner = {"x": FIB, "y": {"needs": ["x"], "approval": {"message": "?"}}}
        workflow = millrace.save({"name": "retrying-group", "steps": {"team": {"group": {"steps": inner}}}})

        def child_of(execution_id: str) -> str:
            found = until(lambda: step(millrace, execution_id, "team").get("child_execution_id"))
            until(waits(millrace, found, "y", "approval"))
            return str(found)

        old = millrace.start(workflow)
        child = child_of(old)
        done(post(millrace, child, "steps/y/reject"), "rejected")
        assert millrace.ended(old)["status"] == "failed"
        assert problem(post(millrace, child, "retry")) == (409, "execution_is_part")
        retry = new(post(millrace, old, "retry"))
        again = child_of(retry)
        assert reused(millrace, again) == ["x"]
        done(post(millrace, again, "steps/y/approve"), "approved")
        assert millrace.ended(retry)["status"] == "completed"

    def test_completed_items_are_taken_over(self, millrace: Any, until: Any) -> None:
        each = {"for_each": [1, 2], "approval": {"message": "?"}, "max_parallel": 1}
        old = millrace.start(millrace.save({"name": "retrying-items", "steps": {"each": each}}))

        def item_waits(execution_id: str, number: int) -> Callable[[], bool]:
            def look() -> bool:
                shown = millrace.http.get(f"/api/v1/executions/{execution_id}/steps/each").json().get("items") or []
                return any(one["item"] == number and one["status"] == "waiting" for one in shown)

            return look

        until(item_waits(old, 0))
        done(post(millrace, old, "steps/each/approve", item=0, note="first"), "approved")
        until(item_waits(old, 1))
        done(post(millrace, old, "steps/each/reject", item=1), "rejected")
        assert millrace.ended(old)["status"] == "failed"
        retry = new(post(millrace, old, "retry"))
        until(item_waits(retry, 1))
        done(post(millrace, retry, "steps/each/approve", item=1), "approved")
        assert millrace.ended(retry)["status"] == "completed"
        output = step(millrace, retry, "each")["output_data"]
        assert [one["note"] for one in output] == ["first", ""]

    def test_a_named_one_is_made_once(self, millrace: Any) -> None:
        steps = {"bad": {"python": "millrace_agent_runner.functions.testing:crash"}}
        old = millrace.start(millrace.save({"name": "retrying-once", "steps": steps}))
        assert millrace.ended(old)["status"] == "failed"
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: post(millrace, old, "retry", execution_name="once"), range(8)))
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
        assert len({answer.json()["execution_id"] for answer in answers}) == 1


class TestFork:
    def test_what_came_before_is_taken_over_and_the_rest_runs_with_another_input(self, millrace: Any) -> None:
        old = millrace.run(millrace.save(FORKING))["id"]
        fork = millrace.ended(new(post(millrace, old, "fork", from_step="b", input={"n": 5})))
        assert fork["results"] == {"c": 60}
        assert (fork["origin"]["kind"], fork["origin"]["step_id"]) == ("fork", "b")
        assert reused(millrace, fork["id"]) == ["a"]
        assert ran(millrace, fork["id"]) == ["b", "c"]

    def test_another_version_runs_the_rest_its_own_way(self, millrace: Any) -> None:
        old = millrace.run(millrace.save(FORKING))["id"]
        steps = {**FORKING["steps"], "c": {"needs": ["b"], "transform": "${{ steps.b.output * 100 }}"}}
        millrace.save({**FORKING, "steps": steps})
        version = millrace.http.get("/api/v1/workflows/forking").json()["version"]
        fork = millrace.ended(new(post(millrace, old, "fork", from_step="c", version=version)))
        assert (fork["results"], fork["workflow_version"]) == ({"c": 200}, version)
        assert reused(millrace, fork["id"]) == ["a", "b"]

    def test_a_step_that_does_not_exist(self, millrace: Any) -> None:
        old = millrace.run(millrace.save(FORKING))["id"]
        answer = post(millrace, old, "fork", from_step="d")
        assert problem(answer) == (404, "step_not_found")

    def test_a_replay_takes_nothing_over_and_compares_equal(self, millrace: Any) -> None:
        old = millrace.run(millrace.save(FORKING), {"n": 3})["id"]
        replay = millrace.ended(new(post(millrace, old, "replay")))
        assert (replay["results"], reused(millrace, replay["id"])) == ({"c": 60}, [])
        other = millrace.ended(new(post(millrace, old, "fork", from_step="b", input={"n": 4})))
        same = millrace.http.get(f"/api/v1/executions/{old}/compare/{replay['id']}").json()
        assert (same["same_input"], same["same_results"], same["same_definition"]) == (True, True, True)
        assert all(one["same_output"] and one["same_status"] for one in same["steps"])
        shown = millrace.http.get(f"/api/v1/executions/{old}/compare/{other['id']}").json()
        assert shown["input_differences"] == [{"path": "/n", "kind": "changed", "a": 3, "b": 4}]
        assert shown["result_differences"] == [{"path": "/c", "kind": "changed", "a": 60, "b": 70}]
        assert [one["same_output"] for one in shown["steps"]] == [True, False, False]


class TestBulk:
    def test_many_are_cancelled_and_many_retried(self, millrace: Any, until: Any) -> None:
        workflow = millrace.save({"name": "many", "steps": {"a": {"wait": {"signal": "go", "timeout": "1h"}}}})
        ids = millrace.start_many(workflow, 20)

        def bulk(what: str, **body: Any) -> dict[str, Any]:
            answer = millrace.http.post(f"/api/v1/executions/bulk/{what}", json={"workflow": workflow, **body})
            assert answer.status_code == 200, answer.text
            told: dict[str, Any] = answer.json()
            return told

        until(lambda: bulk("cancel", dry_run=True, limit=1)["matched"] == 20)
        assert {one["execution_id"] for one in bulk("cancel", reason="enough")["done"]} == set(ids)
        assert {detail["status"] for detail in millrace.ended_all(ids)} == {"cancelled"}
        until(lambda: bulk("retry", statuses=["cancelled"], dry_run=True)["matched"] == 20)
        retried = bulk("retry", statuses=["cancelled"], limit=15)
        assert (len(retried["done"]), retried["refused"]) == (15, [])
        again = bulk("retry", statuses=["cancelled"], limit=15)
        assert {one["code"] for one in again["refused"]} == {"already_retried"}
        for one in retried["done"]:
            done(post(millrace, one["new_execution_id"], "signal", name="go"), "received")
        ended = millrace.ended_all([one["new_execution_id"] for one in retried["done"]])
        assert {detail["status"] for detail in ended} == {"completed"}


def test_an_execution_keeps_the_versions_of_the_workflows_it_uses(millrace: Any, until: Any) -> None:
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
