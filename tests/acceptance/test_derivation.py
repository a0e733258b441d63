"""Starting anew from what ran, over HTTP against the whole product: retries, forks, replays, and many at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from steering import done, new, post, problem, ran, reused, step, waits

from millrace_shared.testing.waiting import until

FIB = {"python": "millrace_agent_runner.functions:fib", "input": {"n": 10}}
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


class TestRetry:
    def test_it_goes_on_from_what_failed(self, millrace: Any) -> None:
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

    def test_what_a_group_had_done_is_not_done_again(self, millrace: Any) -> None:
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

    def test_completed_items_are_taken_over(self, millrace: Any) -> None:
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
    def test_many_are_cancelled_and_many_retried(self, millrace: Any) -> None:
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
