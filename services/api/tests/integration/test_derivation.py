"""Retry, fork, replay, bulk, compare, and the workflows that an execution uses: what is stored, without an engine."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from millrace_shared.ids import new_id
from millrace_shared.messages import (
    ErrorInfo,
    Event,
    ExecutionFinished,
    ExecutionStarted,
    Origin,
    Parent,
    Reuse,
    ReusedStep,
    StartRequest,
    StepCompleted,
    StepFailed,
    StepScheduled,
    Use,
)
from millrace_shared.values import Payload

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEPS = {
    "greet": {"transform": 1},
    "work": {"needs": ["greet"], "transform": 2},
    "after": {"needs": ["work"], "transform": 3},
}
ERROR = ErrorInfo("boom", "server_error", "it broke")


async def failed(api: Any, workflow: str | None = None, **fields: Any) -> str:
    """Return an execution that failed at its second step."""
    execution_id: str = await api.execution(workflow or await api.workflow(steps=STEPS), **fields)
    await api.orchestrator.start(execution_id)
    await api.orchestrator.append(
        execution_id,
        StepCompleted("greet", 1, output=Payload("hello")),
        StepScheduled("work", 1),
        StepFailed("work", ERROR, 1),
        ExecutionFinished("failed", error=ERROR),
    )
    return execution_id


async def request_of(api: Any, execution_id: str) -> StartRequest:
    request: StartRequest = await api.running.adapters.executions.request_of("default", execution_id)
    return request


def post(api: Any, path: str, **body: Any) -> Any:
    return api.http.post(f"/api/v1/executions/{path}", json=body)


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def reuse_of(request: StartRequest) -> Reuse:
    return msgspec.convert(request.reuse.data, Reuse, str_keys=True)


async def test_a_retry_is_the_same_request_with_what_had_completed(api: Any) -> None:
    old = await failed(api, input={"who": "you"}, labels={"team": "a"}, priority="high", execution_name="once")
    answer = await post(api, f"{old}/retry")
    assert answer.status_code == 202
    new = answer.json()["execution_id"]
    assert answer.headers["location"] == f"/api/v1/executions/{new}"
    before, request = await request_of(api, old), await request_of(api, new)
    same = ("definition", "input", "labels", "priority", "workflow_id", "workflow_version", "part", "uses")
    assert [getattr(request, name) for name in same] == [getattr(before, name) for name in same]
    assert request.origin == Origin("retry", old)
    assert (request.execution_name, request.parent) == (None, None)
    assert reuse_of(request) == Reuse(old, {"greet": ReusedStep(output=Payload("hello"))})


async def test_a_named_retry_may_be_repeated(api: Any) -> None:
    old = await failed(api)
    answers = await asyncio.gather(*(post(api, f"{old}/retry", execution_name="again") for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [202]
    assert len({answer.json()["execution_id"] for answer in answers}) == 1
    other = await post(api, f"{await failed(api)}/retry", execution_name="again")
    assert other.status_code == 202  # of another workflow
    replay = await post(api, f"{old}/replay", execution_name="again")
    assert problem(replay) == (409, "execution_name_conflict")


async def test_only_what_failed_is_retried(api: Any) -> None:
    running = await api.execution(await api.workflow())
    assert problem(await post(api, f"{running}/retry")) == (409, "execution_not_finished")
    await api.orchestrator.start(running)
    assert problem(await post(api, f"{running}/retry")) == (409, "execution_not_finished")
    await api.orchestrator.finish(running)
    assert problem(await post(api, f"{running}/retry")) == (409, "execution_not_failed")
    assert problem(await post(api, "nope/retry")) == (404, "execution_not_found")


async def test_a_replay_takes_nothing_over(api: Any) -> None:
    old = await failed(api, input={"who": "you"})
    answer = await post(api, f"{old}/replay", breakpoints=["work"])
    request = await request_of(api, answer.json()["execution_id"])
    assert (request.origin, request.reuse) == (Origin("replay", old), Payload())
    assert (request.input, request.breakpoints) == (Payload({"who": "you"}), ("work",))
    running = await api.execution(await api.workflow())
    assert problem(await post(api, f"{running}/replay")) == (409, "execution_not_finished")


async def test_a_fork_takes_over_what_came_before_its_step(api: Any) -> None:
    old = await failed(api, input={"who": "you"})
    answer = await post(api, f"{old}/fork", from_step="work", input={"who": "them"})
    assert answer.status_code == 202, answer.text
    request = await request_of(api, answer.json()["execution_id"])
    assert request.origin == Origin("fork", old, step="work")
    assert request.input == Payload({"who": "them"})
    assert set(reuse_of(request).steps) == {"greet"}
    first = await post(api, f"{old}/fork", from_step="greet")
    assert (await request_of(api, first.json()["execution_id"])).reuse == Payload()


async def test_a_fork_checks_step_input_and_version(api: Any) -> None:
    workflow = await api.workflow(steps=STEPS)
    old = await failed(api, workflow)
    unknown = await post(api, f"{old}/fork", from_step="wrok")
    assert problem(unknown) == (404, "step_not_found")
    assert 'did you mean "work"?' in unknown.json()["detail"]
    assert problem(await post(api, f"{old}/fork")) == (422, "request_invalid")
    wrong = await post(api, f"{old}/fork", from_step="work", input={"who": 1})
    assert problem(wrong) == (422, "input_invalid")
    missing = await post(api, f"{old}/fork", from_step="work", version=2)
    assert problem(missing) == (404, "workflow_version_not_found")


async def test_a_fork_may_run_another_version(api: Any) -> None:
    workflow = await api.workflow(steps=STEPS)
    old = await failed(api, workflow, input={"who": "you"})
    newer = {
        "name": workflow,
        "inputs": {"who": {"type": "string"}, "more": {"type": "integer", "default": 7}},
        "steps": {"greet": {"transform": 1}, "better": {"needs": ["greet"], "transform": 2}},
    }
    assert (await api.http.put(f"/api/v1/workflows/{workflow}", json=newer)).status_code == 201
    assert problem(await post(api, f"{old}/fork", from_step="better")) == (404, "step_not_found")
    answer = await post(api, f"{old}/fork", from_step="better", version=2)
    request = await request_of(api, answer.json()["execution_id"])
    assert request.workflow_version == 2
    assert request.definition != (await request_of(api, old)).definition
    assert request.input == Payload({"who": "you", "more": 7})
    assert set(reuse_of(request).steps) == {"greet"}


async def test_a_running_execution_can_be_forked(api: Any) -> None:
    old = await api.execution(await api.workflow(steps=STEPS))
    await api.orchestrator.start(old)
    await api.orchestrator.append(old, StepCompleted("greet", 1, output=Payload("hello")), StepScheduled("work", 1))
    answer = await post(api, f"{old}/fork", from_step="work")
    request = await request_of(api, answer.json()["execution_id"])
    assert set(reuse_of(request).steps) == {"greet"}


async def test_large_results_are_taken_over_by_claim_check(api: Any) -> None:
    old = await api.execution(await api.workflow(steps=STEPS))
    await api.orchestrator.start(old)
    large = StepCompleted("greet", 1, output=Payload("x" * 70_000))
    await api.orchestrator.append(old, large, StepFailed("work", ERROR, 1), ExecutionFinished("failed", error=ERROR))
    request = await request_of(api, (await post(api, f"{old}/retry")).json()["execution_id"])
    assert request.reuse.data is None
    document = await api.running.adapters.blobs.unpack("default", request.reuse)
    assert msgspec.convert(document, Reuse, str_keys=True).steps["greet"].output == large.output


async def test_a_retry_follows_the_children_of_unfinished_steps(api: Any) -> None:
    steps = {"team": {"group": {"steps": {"x": {"transform": 1}, "y": {"needs": ["x"], "transform": 2}}}}}
    old, child = await api.execution(await api.workflow(steps=steps)), new_id()
    request = await request_of(api, old)
    inside = msgspec.structs.replace(
        request, execution_id=child, part="team", parent=Parent(old, "team", 1, old, 1, inline=True)
    )
    done = StepCompleted("x", output=Payload(1))
    await append_all(
        api, child, ExecutionStarted(inside, 9e9), done, StepFailed("y", ERROR), ExecutionFinished("failed")
    )
    scheduled = StepScheduled("team", 1, child=child)
    end = ExecutionFinished("failed", error=ERROR)
    await append_all(api, old, ExecutionStarted(request, 9e9), scheduled, StepFailed("team", ERROR, 1), end)
    answer = await post(api, f"{old}/retry")
    reuse = reuse_of(await request_of(api, answer.json()["execution_id"]))
    assert reuse.steps["team"].child == Reuse(child, {"x": ReusedStep(output=Payload(1))})
    refused = await post(api, f"{child}/retry")
    assert problem(refused) == (409, "execution_is_part")
    assert refused.json()["execution_id"] == old


async def append_all(api: Any, execution_id: str, *events: Event) -> None:
    for event in events:
        await api.orchestrator.append(execution_id, event)


async def test_nothing_is_started_of_an_archived_workflow(api: Any) -> None:
    workflow = await api.workflow(steps=STEPS)
    old = await failed(api, workflow)
    assert (await api.http.delete(f"/api/v1/workflows/{workflow}")).status_code == 204
    for path in ("retry", "replay", "fork"):
        body = {"from_step": "work"} if path == "fork" else {}
        assert problem(await post(api, f"{old}/{path}", **body)) == (409, "workflow_archived")


async def test_an_expired_log_is_read_from_the_projection(api: Any) -> None:
    there = await failed(api)
    old = new_id()
    events: list[Event] = []
    for transition in api.orchestrator.transitions[there]:
        for event in transition.events:
            if isinstance(event, ExecutionStarted):
                request = msgspec.structs.replace(event.request, execution_id=old)
                events.append(ExecutionStarted(request, event.deadline))
            else:
                events.append(event)
    await api.database.execute(
        "INSERT INTO telemetry.transitions (execution_id, version, stream_sequence, at, events) "
        "VALUES ($1, 1, 0, now(), $2)",
        old,
        msgspec.json.encode(events).decode(),
    )
    answer = await post(api, f"{old}/retry")
    assert answer.status_code == 202, answer.text
    request = await request_of(api, answer.json()["execution_id"])
    assert reuse_of(request) == Reuse(old, {"greet": ReusedStep(output=Payload("hello"))})


async def test_many_are_cancelled_by_filter(api: Any) -> None:
    workflow = await api.workflow(steps=STEPS)
    ids = []
    for number in range(3):
        execution_id = await api.execution(workflow, labels={"n": str(number)})
        await api.orchestrator.start(execution_id)
        if number == 2:
            await api.orchestrator.append(execution_id, ExecutionFinished("completed"))
        await api.project(api.orchestrator.view(execution_id))
        ids.append(execution_id)
    dry = (await post(api, "bulk/cancel", workflow=workflow, dry_run=True)).json()
    assert [one["execution_id"] for one in dry["done"]] == [ids[1], ids[0]]
    assert (dry["matched"], dry["refused"], dry["dry_run"]) == (2, [], True)
    labelled = (await post(api, "bulk/cancel", workflow=workflow, labels={"n": "0"}, reason="enough")).json()
    assert [one["execution_id"] for one in labelled["done"]] == [ids[0]]
    limited = (await post(api, "bulk/cancel", workflow=workflow, limit=1)).json()
    assert (limited["matched"], len(limited["done"])) == (2, 1)
    ended = (await post(api, "bulk/cancel", workflow=workflow, statuses=["completed"])).json()
    assert [(one["execution_id"], one["code"]) for one in ended["refused"]] == [(ids[2], "execution_already_finished")]
    assert problem(await post(api, "bulk/cancel")) == (422, "request_invalid")
    assert problem(await post(api, "bulk/cancel", limit=1_001, workflow=workflow)) == (422, "request_invalid")
    assert problem(await post(api, "bulk/cancel", workflow="nobody's")) == (404, "workflow_not_found")


async def test_many_are_retried_by_filter_and_each_once(api: Any) -> None:
    workflow = await api.workflow(steps=STEPS)
    ids = []
    for _ in range(3):
        ids.append(await failed(api, workflow))
        await api.project(api.orchestrator.view(ids[-1]))
    dry = (await post(api, "bulk/retry", workflow=workflow, dry_run=True)).json()
    assert {one["execution_id"] for one in dry["done"]} == set(ids)
    done = (await post(api, "bulk/retry", workflow=workflow)).json()["done"]
    assert {one["execution_id"] for one in done} == set(ids)
    started = {one["execution_id"]: one["new_execution_id"] for one in done}
    for old, new in started.items():
        assert (await request_of(api, new)).origin == Origin("retry", old)
    again = (await post(api, "bulk/retry", workflow=workflow)).json()
    assert again["done"] == []
    assert {one["execution_id"]: one["new_execution_id"] for one in again["refused"]} == started
    assert {one["code"] for one in again["refused"]} == {"already_retried"}


async def test_two_executions_are_compared(api: Any) -> None:
    workflow = await api.workflow(steps=STEPS)
    a, b = await failed(api, workflow, input={"who": "a"}), await failed(api, workflow, input={"who": "b"})
    shown = (await api.http.get(f"/api/v1/executions/{a}/compare/{b}")).json()
    assert (shown["a"]["id"], shown["b"]["id"]) == (a, b)
    assert (shown["same_definition"], shown["same_input"]) == (True, False)
    assert shown["input_differences"] == [{"path": "/who", "kind": "changed", "a": "a", "b": "b"}]
    assert [step["same_output"] for step in shown["steps"]] == [True, True, True]
    missing = await api.http.get(f"/api/v1/executions/{a}/compare/nope")
    assert problem(missing) == (404, "execution_not_found")


async def test_lists_show_what_is_at_the_top_unless_children_are_wanted(api: Any) -> None:
    workflow = await api.workflow()
    top = await api.execution(workflow)
    request = await request_of(api, top)
    sub, group = new_id(), new_id()
    for child, inline in ((sub, False), (group, True)):
        parent = Parent(top, "greet", 1, top, 1, inline=inline)
        began = ExecutionStarted(msgspec.structs.replace(request, execution_id=child, parent=parent), 9e9)
        await api.orchestrator.append(child, began)
    await api.orchestrator.start(top)
    for one in (top, sub, group):
        await api.project(api.orchestrator.view(one))

    async def listed(path: str) -> set[str]:
        answer = await api.http.get(f"/api/v1/{path}")
        assert answer.status_code == 200, answer.text
        return {item["id"] for item in answer.json()["items"]}

    assert await listed(f"executions?workflow_id={workflow}") == {top}
    assert await listed(f"executions?workflow_id={workflow}&include=children") == {top, sub, group}
    assert await listed(f"executions?parent_id={top}") == {sub, group}
    assert await listed(f"workflows/{workflow}/executions") == {top, sub}
    wrong = await api.http.get("/api/v1/executions?include=everything")
    assert problem(wrong) == (422, "request_invalid")


async def test_the_workflows_that_are_used_are_fixed_at_the_start(api: Any) -> None:
    leaf = await api.workflow()
    middle = await api.workflow(steps={"leaf": {"workflow": leaf}})
    top = await api.workflow(
        steps={"team": {"group": {"steps": {"inner": {"workflow": {"name": middle, "version": 1}}}}}}
    )
    changed = {"name": leaf, "steps": {"greet": {"transform": 2}}}
    assert (await api.http.put(f"/api/v1/workflows/{leaf}", json=changed)).status_code == 201
    uses = (await request_of(api, await api.execution(top))).uses
    assert {key: use.version for key, use in uses.items()} == {f"{middle}@1": 1, leaf: 2}
    assert isinstance(uses[leaf], Use)
    assert (await request_of(api, await api.execution(leaf))).uses == {}


async def test_a_workflow_that_runs_itself_runs_the_version_that_was_started(api: Any) -> None:
    name = f"recursive-{time.time_ns()}"
    definition = {"name": name, "steps": {"again": {"workflow": name}}}
    assert (await api.http.post("/api/v1/workflows", json=definition)).status_code == 201
    newer = {**definition, "description": "newer"}
    assert (await api.http.put(f"/api/v1/workflows/{name}", json=newer)).status_code == 201
    for version in (1, 2):
        uses = (await request_of(api, await api.execution(name, version=version))).uses
        assert {key: use.version for key, use in uses.items()} == {name: version}


@pytest.mark.parametrize("path", ["workflows", "workflows/validate"])
async def test_an_unknown_workflow_is_a_mistake_at_its_place(api: Any, path: str) -> None:
    there = await api.workflow()
    source = f"name: x-{time.time_ns()}\nsteps:\n  call:\n    workflow: {there[:-1]}\n"
    answer = await api.http.post(f"/api/v1/{path}", content=source)
    assert problem(answer) == (422, "workflow_invalid")
    [mistake] = answer.json()["errors"]
    assert (mistake["loc"], mistake["line"]) == ("steps.call.workflow", 4)
    assert mistake["suggestion"] == f'did you mean "{there}"?'


async def test_what_was_archived_since_is_refused_at_the_start_and_named(api: Any) -> None:
    leaf = await api.workflow()
    top = await api.workflow(steps={"call": {"workflow": leaf}})
    assert (await api.http.delete(f"/api/v1/workflows/{leaf}")).status_code == 204
    answer = await api.http.post("/api/v1/executions", json={"workflow": top})
    assert problem(answer) == (409, "workflow_archived")
    assert "steps.call.workflow" in answer.json()["detail"]


async def test_there_is_a_limit_to_the_workflows_that_one_uses(api: Any) -> None:
    leaves = [await api.workflow() for _ in range(100)]
    half = {f"s{number}": {"workflow": leaf} for number, leaf in enumerate(leaves[:50])}
    middle = await api.workflow(steps=half)
    rest = {f"s{number}": {"workflow": leaf} for number, leaf in enumerate(leaves[50:])}
    top = await api.workflow(steps={**rest, "middle": {"workflow": middle}})
    answer = await api.http.post("/api/v1/executions", json={"workflow": top})
    assert problem(answer) == (422, "too_many_workflows")
