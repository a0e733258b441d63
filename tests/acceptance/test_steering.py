"""Steering what runs, over HTTP against the whole product: pauses, signals, approvals and breakpoints."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from steering import done, events, post, problem, ran, step, waits

from millrace_shared.testing.waiting import until

FIB = {"python": "millrace_agent_runner.functions:fib", "input": {"n": 10}}
STEPS = {"a": {"transform": 1}, "b": {"needs": ["a"], "transform": "${{ steps.a.output + 1 }}"}}
FORM = {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number", "maximum": 10}}}


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
    def test_nothing_new_starts_until_it_is_resumed(self, millrace: Any, pausing: str) -> None:
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

    def test_of_many_who_pause_one_does_and_likewise_who_resume(self, millrace: Any, pausing: str) -> None:
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
    def test_one_that_comes_early_is_kept_and_its_id_makes_it_one(self, millrace: Any) -> None:
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

    def test_an_unknown_one_changes_nothing(self, millrace: Any) -> None:
        workflow = millrace.save({"name": "unsignalled", "steps": {"a": {"wait": {"signal": "payment"}}}})
        execution_id = millrace.start(workflow)
        until(waits(millrace, execution_id, "a", "signal"))
        before = events(millrace, execution_id)
        answer = post(millrace, execution_id, "signal", name="paymnet")
        assert problem(answer) == (404, "signal_unknown")
        assert 'did you mean "payment"?' in answer.json()["detail"]
        assert events(millrace, execution_id) == before


class TestApproval:
    def test_what_is_entered_goes_on_with_who_and_when(self, millrace: Any, approving: str) -> None:
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

    def test_of_many_answers_one_counts(self, millrace: Any, approving: str) -> None:
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

    def test_a_rejection_may_complete_the_step(self, millrace: Any) -> None:
        ok = {"approval": {"message": "?", "on_reject": "complete"}}
        no = {"needs": ["ok"], "when": "!steps.ok.output.approved", "transform": "sorry"}
        execution_id = millrace.start(millrace.save({"name": "rejecting", "steps": {"ok": ok, "no": no}}))
        until(waits(millrace, execution_id, "ok", "approval"))
        done(post(millrace, execution_id, "steps/ok/reject", note="too much"), "rejected")
        assert millrace.ended(execution_id)["status"] == "completed"
        assert step(millrace, execution_id, "no")["output_data"] == "sorry"

    def test_items_are_decided_one_by_one(self, millrace: Any) -> None:
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
    def test_a_run_is_stepped_through_with_an_input_edited(self, millrace: Any) -> None:
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
