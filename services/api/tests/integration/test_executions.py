"""Accepting executions and reading them back, with no orchestrator and no telemetry but what the test plays."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from millrace_shared import subjects
from millrace_shared.bus.log_reader import read_last, read_subject
from millrace_shared.codec import decode_inbox, decode_request
from millrace_shared.messages import (
    CancelRequest,
    ErrorInfo,
    ExecutionFinished,
    StepCompleted,
    StepExpanded,
    StepFailed,
    StepScheduled,
)
from millrace_shared.values import Payload

pytestmark = pytest.mark.asyncio(loop_scope="module")

DETAIL_FIELDS = {
    "id",
    "workflow_id",
    "workflow_version",
    "execution_number",
    "execution_name",
    "status",
    "started_at",
    "completed_at",
    "duration",
    "input_variables",
    "results",
    "error",
    "error_message",
    "tokens_used",
    "cost_usd",
    "trace_id",
    "labels",
    "step_executions",
    "created_at",
    "updated_at",
}
STEP_FIELDS = {
    "id",
    "execution_id",
    "step_id",
    "agent_id",
    "status",
    "started_at",
    "completed_at",
    "duration",
    "retry_count",
    "input_data",
    "output_data",
    "error_message",
}


async def test_an_accepted_execution_is_durable_and_says_where_it_is(api: Any) -> None:
    workflow = await api.workflow()
    body = {"workflow": workflow, "input": {"who": "you"}, "labels": {"team": "search"}, "priority": "high"}
    trace = {"traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"}
    answer = await api.http.post("/api/v1/executions", json=body, headers=trace)
    assert answer.status_code == 202
    accepted = answer.json()
    assert set(accepted) == {"execution_id", "execution_name", "workflow_id", "status", "created_at"}
    assert accepted["status"] == "pending"
    assert accepted["created_at"].endswith("Z")
    execution_id = accepted["execution_id"]
    assert answer.headers["location"] == f"/api/v1/executions/{execution_id}"
    stored = await read_last(api.orchestrator.connection, "INBOX", subjects.start(execution_id))
    assert stored is not None
    request = decode_request(stored.payload)
    assert (request.workspace, request.workflow_name, request.workflow_version) == ("default", workflow, 1)
    assert request.input == Payload(data={"who": "you"})
    assert (request.labels, request.priority) == ({"team": "search"}, "high")
    assert request.traceparent == trace["traceparent"]
    detail = (await api.http.get(answer.headers["location"])).json()
    assert detail["trace_id"] == "0123456789abcdef0123456789abcdef"
    assert detail["input_variables"] == {"who": "you"}


async def test_a_thousand_posts_are_all_found_at_once(lonely_api: Any) -> None:
    workflow = await lonely_api.workflow()
    gate = asyncio.Semaphore(50)

    async def post_then_get(number: int) -> str:
        async with gate:
            execution_id = await lonely_api.execution(workflow, input={"who": str(number)})
            answer = await lonely_api.http.get(f"/api/v1/executions/{execution_id}")
            assert answer.status_code == 200, answer.text
            shown = answer.json()
            assert shown["status"] == "pending"
            assert shown["input_variables"] == {"who": str(number)}
            return str(execution_id)

    ids = await asyncio.gather(*map(post_then_get, range(1000)))
    assert len(set(ids)) == 1000


async def test_detail_has_the_promised_fields_before_there_is_a_log(lonely_api: Any) -> None:
    steps = {"greet": {"transform": 1}, "wave": {"needs": ["greet"], "transform": 2}}
    execution_id = await lonely_api.execution(await lonely_api.workflow(steps=steps))
    detail = (await lonely_api.http.get(f"/api/v1/executions/{execution_id}")).json()
    assert set(detail) >= DETAIL_FIELDS
    assert [step["step_id"] for step in detail["step_executions"]] == ["greet", "wave"]
    assert all(set(step) >= STEP_FIELDS for step in detail["step_executions"])
    assert {step["status"] for step in detail["step_executions"]} == {"pending"}
    assert detail["input_variables"] == {"who": "world"}


async def test_detail_is_folded_from_the_log_while_nothing_is_projected(lonely_api: Any) -> None:
    execution_id = await lonely_api.execution(await lonely_api.workflow())
    await lonely_api.orchestrator.start(execution_id)
    running = (await lonely_api.http.get(f"/api/v1/executions/{execution_id}")).json()
    assert running["status"] == "running"
    await lonely_api.orchestrator.finish(execution_id)
    ended = (await lonely_api.http.get(f"/api/v1/executions/{execution_id}")).json()
    assert ended["status"] == "completed"
    assert ended["results"] == {"said": "hello"}
    assert ended["duration"] > 0
    assert ended["step_executions"][0]["output_data"] == "hello"
    assert ended["step_executions"][0]["duration"] > 0


async def test_a_projection_that_lags_never_hides_the_end(api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    await api.project(api.orchestrator.view(execution_id), execution_number=7)
    await api.orchestrator.finish(execution_id)
    detail = (await api.http.get(f"/api/v1/executions/{execution_id}")).json()
    assert detail["status"] == "completed"
    assert detail["execution_number"] == 7


async def test_projected_and_folded_details_are_the_same(api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    await api.orchestrator.finish(execution_id)
    folded = (await api.http.get(f"/api/v1/executions/{execution_id}")).json()
    await api.project(api.orchestrator.view(execution_id))
    # A log that the projection does not have any more proves which of the two answers.
    projected = (await api.http.get(f"/api/v1/executions/{execution_id}")).json()
    assert projected == folded
    await api.database.execute("UPDATE telemetry.executions SET execution_number = 3 WHERE id = $1", execution_id)
    assert (await api.http.get(f"/api/v1/executions/{execution_id}")).json()["execution_number"] == 3


async def test_two_hundred_concurrent_posts_of_one_name_are_one_execution(api: Any) -> None:
    workflow = await api.workflow()
    body = {"workflow": workflow, "execution_name": "nightly", "input": {"who": "all"}}
    answers = await asyncio.gather(*(api.http.post("/api/v1/executions", json=body) for _ in range(200)))
    assert sorted(answer.status_code for answer in answers) == [200] * 199 + [202]
    assert len({answer.json()["execution_id"] for answer in answers}) == 1
    assert len({answer.json()["created_at"] for answer in answers}) == 1


async def test_a_name_with_another_input_is_a_conflict(api: Any) -> None:
    workflow = await api.workflow()
    first = await api.execution(workflow, execution_name="one", input={"who": "a"})
    answer = await api.http.post(
        "/api/v1/executions", json={"workflow": workflow, "execution_name": "one", "input": {"who": "b"}}
    )
    assert answer.status_code == 409
    assert answer.json()["code"] == "execution_name_conflict"
    assert answer.json()["execution_id"] == first
    other = await api.workflow()
    assert await api.execution(other, execution_name="one", input={"who": "b"}) != first


async def test_a_repeat_is_read_as_the_first_request_was(api: Any) -> None:
    """The default of a later version must not make an unchanged request a conflict."""
    workflow = await api.workflow()
    body = {"workflow": workflow, "execution_name": "one"}
    first = await api.http.post("/api/v1/executions", json=body)
    changed = {
        "name": workflow,
        "inputs": {"who": {"type": "string", "default": "moon"}},
        "steps": {"greet": {"transform": 1}},
    }
    assert (await api.http.put(f"/api/v1/workflows/{workflow}", json=changed)).status_code == 201
    again = await api.http.post("/api/v1/executions", json=body)
    assert again.status_code == 200
    assert again.json() == first.json()
    assert (await api.http.post("/api/v1/executions", json={**body, "version": 2})).status_code == 409


async def test_wait_answers_with_the_ended_execution(api: Any) -> None:
    workflow = await api.workflow()
    waiting = asyncio.ensure_future(
        api.http.post("/api/v1/executions?wait=20", json={"workflow": workflow, "execution_name": "w"})
    )
    stored = None
    execution_id = ""
    async for one in read_all_requests(api):
        if one.workflow_name == workflow:
            stored, execution_id = one, one.execution_id
            break
    assert stored is not None
    await api.orchestrator.start(execution_id)
    await api.orchestrator.finish(execution_id)
    answer = await waiting
    assert answer.status_code == 200
    assert set(answer.json()) >= DETAIL_FIELDS
    assert answer.json()["status"] == "completed"
    assert answer.json()["results"] == {"said": "hello"}
    assert answer.json() == (await api.http.get(f"/api/v1/executions/{execution_id}")).json()
    again = await api.http.post("/api/v1/executions?wait=20", json={"workflow": workflow, "execution_name": "w"})
    assert again.status_code == 200
    assert again.json() == answer.json()


async def read_all_requests(api: Any) -> Any:
    """Yield stored requests until the test stops reading."""
    sequence = 1
    async with asyncio.timeout(30):
        while True:
            async for stored in read_subject(api.orchestrator.connection, "INBOX", "in.*.*.start", sequence):
                sequence = stored.sequence + 1
                yield decode_request(stored.payload)
            await asyncio.sleep(0.01)


async def test_wait_gives_up_with_a_202(api: Any) -> None:
    began = time.monotonic()
    answer = await api.http.post("/api/v1/executions?wait=0.2", json={"workflow": await api.workflow()})
    assert answer.status_code == 202
    assert time.monotonic() - began >= 0.2
    assert answer.json()["status"] == "pending"


async def test_a_large_input_goes_by_claim_check_and_comes_back_whole(api: Any) -> None:
    who = "x" * 150_000
    execution_id = await api.execution(await api.workflow(), input={"who": who})
    stored = await read_last(api.orchestrator.connection, "INBOX", subjects.start(execution_id))
    assert stored is not None
    assert len(stored.payload) < 2_000
    detail = (await api.http.get(f"/api/v1/executions/{execution_id}")).json()
    assert detail["input_variables"]["stored"] is True
    await api.orchestrator.start(execution_id)
    step = (await api.http.get(f"/api/v1/executions/{execution_id}/steps/greet")).json()
    assert step["input_data"] == {"who": who}
    timeline = (await api.http.get(f"/api/v1/executions/{execution_id}/timeline")).json()
    assert timeline["step_timeline"][0]["input_summary"]["stored"] is True


async def test_timeline_counts_steps_and_cuts_long_values(api: Any) -> None:
    steps = {
        "greet": {"transform": 1},
        "bad": {"name": "Goes wrong", "needs": ["greet"], "transform": 1},
        "never": {"needs": ["bad"], "transform": 1},
    }
    execution_id = await api.execution(await api.workflow(steps=steps))
    await api.orchestrator.start(execution_id)
    error = ErrorInfo("x", "timeout", "took too long", detail={"step_id": "bad"})
    await api.orchestrator.append(
        execution_id,
        StepCompleted("greet", 1, output=Payload(data="y" * 10_000), started_at=time.time()),
        StepFailed("bad", error),
        ExecutionFinished("failed", error=error),
    )
    timeline = (await api.http.get(f"/api/v1/executions/{execution_id}/timeline")).json()
    counts = ("step_count", "completed_step_count", "failed_step_count", "skipped_step_count")
    assert [timeline[name] for name in counts] == [3, 1, 1, 1]
    first, second, third = timeline["step_timeline"]
    assert first["output_summary"]["truncated"] is True
    assert first["output_summary"]["size_bytes"] == 10_002
    assert (second["step_name"], second["status"], second["step_order"]) == ("Goes wrong", "timeout", 1)
    assert third["status"] == "skipped"
    assert timeline["error_message"] == "took too long"
    detail = (await api.http.get(f"/api/v1/executions/{execution_id}")).json()
    assert detail["error"] == {"code": "x", "category": "timeout", "message": "took too long", "step_id": "bad"}


async def test_a_for_each_step_is_one_row_with_its_items_at_the_step(api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    await api.orchestrator.append(
        execution_id,
        StepExpanded("greet", 2),
        StepScheduled("greet", 1, item=0),
        StepScheduled("greet", 1, item=1),
        StepCompleted("greet", 1, item=1, output=Payload(data="b"), started_at=time.time()),
    )
    for _ in ("folded", "projected"):
        detail = (await api.http.get(f"/api/v1/executions/{execution_id}")).json()
        assert [step["step_id"] for step in detail["step_executions"]] == ["greet"]
        path = f"/api/v1/executions/{execution_id}/steps/greet"
        step = (await api.http.get(path)).json()
        assert step["item_count"] == 2
        assert [(item["item"], item["status"]) for item in step["items"]] == [(0, "pending"), (1, "completed")]
        assert (await api.http.get(f"{path}?item=1")).json()["output_data"] == "b"
        missing = await api.http.get(f"{path}?item=2")
        assert (missing.status_code, missing.json()["code"]) == (404, "step_not_found")
        await api.project(api.orchestrator.view(execution_id))


async def test_events_are_the_log_page_by_page(api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    path = f"/api/v1/executions/{execution_id}/events"
    assert (await api.http.get(path)).json()["items"] == []
    await api.orchestrator.start(execution_id)
    await api.orchestrator.finish(execution_id)
    whole = (await api.http.get(path)).json()
    assert [event["type"] for event in whole["items"]] == [
        "execution.started",
        "step.scheduled",
        "step.completed",
        "execution.finished",
    ]
    assert whole["next_cursor"] is None
    assert whole["items"][2]["output"] == "hello"
    read: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.http.get(path, params={"limit": 1, **({"cursor": cursor} if cursor else {})})).json()
        read += page["items"]
        cursor = page["next_cursor"]
    assert read == whole["items"]


async def test_cancel_sends_one_request_each_and_ends_with_the_execution(api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    path = f"/api/v1/executions/{execution_id}/cancel"
    answer = await api.http.post(path, json={"reason": "wrong input"})
    assert answer.status_code == 202
    assert (await api.http.post(path)).status_code == 202
    found = [
        decode_inbox(stored.payload)
        async for stored in read_subject(api.orchestrator.connection, "INBOX", subjects.inbox(execution_id))
    ]
    cancels = [message for message in found if isinstance(message, CancelRequest)]
    assert [cancel.reason for cancel in cancels] == ["wrong input", ""]
    assert cancels[0].requested_by == "api-key:bootstrap"
    assert cancels[0].id != cancels[1].id
    await api.orchestrator.start(execution_id)
    await api.orchestrator.append(execution_id, ExecutionFinished("cancelled"))
    late = await api.http.post(path)
    assert (late.status_code, late.json()["code"]) == (409, "execution_already_finished")


async def test_lists_filter_sort_and_page(api: Any) -> None:
    workflow = await api.workflow()
    ids = []
    for number in range(7):
        labels = {"team": "search" if number % 2 else "ads"}
        execution_id = await api.execution(workflow, labels=labels)
        await api.orchestrator.start(execution_id)
        if number < 3:
            await api.orchestrator.finish(execution_id)
        await api.project(api.orchestrator.view(execution_id))
        ids.append(execution_id)
    base = f"/api/v1/executions?workflow_id={workflow}"

    async def listed(query: str) -> list[str]:
        answer = await api.http.get(base + query)
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert await listed("") == ids[::-1]
    assert await listed("&sort=created_at") == ids
    assert await listed("&status=completed&sort=created_at") == ids[:3]
    assert await listed("&status=completed,running&sort=created_at") == ids
    assert await listed("&label=team:search&sort=created_at") == ids[1::2]
    assert await listed("&label=team") == ids[::-1]
    assert await listed("&label=nobody") == []
    assert await listed("&started_after=2999-01-01T00:00:00Z") == []
    assert await listed("&started_before=2999-01-01T00:00:00Z") == ids[::-1]
    assert await listed("&limit=2&skip=2") == ids[::-1][2:4]
    walked: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.http.get(f"{base}&limit=3" + (f"&cursor={cursor}" if cursor else ""))).json()
        assert page["total"] == 7
        walked += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert walked == ids[::-1]
    of_workflow = (await api.http.get(f"/api/v1/workflows/{workflow}/executions?status=completed&limit=2")).json()
    assert (of_workflow["total"], of_workflow["limit"], len(of_workflow["items"])) == (3, 2, 2)


async def test_metrics_measure_a_workflow(api: Any) -> None:
    workflow = await api.workflow()
    path = f"/api/v1/workflows/{workflow}/metrics"
    empty = (await api.http.get(path)).json()
    assert (empty["total_executions"], empty["success_rate"], empty["p50_duration_seconds"]) == (0, None, None)
    for number in range(4):
        execution_id = await api.execution(workflow)
        await api.orchestrator.start(execution_id)
        if number == 3:
            error = ErrorInfo("boom", "tool_error", "it broke")
            await api.orchestrator.append(execution_id, ExecutionFinished("failed", error=error))
        else:
            await api.orchestrator.finish(execution_id)
        await api.project(api.orchestrator.view(execution_id))
    await api.database.execute(
        "UPDATE telemetry.executions SET completed_at = started_at + interval '2 seconds' WHERE workflow_name = $1",
        workflow,
    )
    found = (await api.http.get(path)).json()
    assert (found["total_executions"], found["successful_executions"], found["failed_executions"]) == (4, 3, 1)
    assert found["success_rate"] == 75
    assert found["total_duration_seconds"] == 8
    for name in ("average", "min", "max", "p50", "p95", "p99"):
        assert found[f"{name}_duration_seconds"] == 2
    assert found["failures_by_category"] == {"tool_error": 1}
    later = (await api.http.get(f"{path}?since=2999-01-01T00:00:00Z")).json()
    assert later["total_executions"] == 0


async def test_metrics_count_no_groups_and_pay_nothing_twice(api: Any) -> None:
    """`top` runs a group, and that the same workflow again; another workflow runs one more of it."""
    name = await api.workflow()
    workflow = (await api.http.get(f"/api/v1/workflows/{name}")).json()["id"]
    family = [
        ("top", None, False, workflow, 100),
        ("group", "top", True, workflow, 60),
        ("again", "group", False, workflow, 50),
        ("other", None, False, "another-workflow", 30),
        ("called", "other", False, workflow, 20),
    ]
    await api.database.executemany(
        "INSERT INTO telemetry.executions (id, workspace, workflow_id, parent_id, inline, tokens_used, cost_usd, "
        "final_status, created_at, started_at, completed_at) "
        "VALUES ($1, 'default', $2, $3, $4, $5, $5::bigint, 'failed', now(), now(), now() + interval '1 second')",
        [
            (f"{name}-{one}", workflow_id, parent and f"{name}-{parent}", inline, used)
            for one, parent, inline, workflow_id, used in family
        ],
    )
    found = (await api.http.get(f"/api/v1/workflows/{name}/metrics")).json()
    assert (found["total_executions"], found["failed_executions"]) == (3, 3)
    assert (found["tokens_used"], found["cost_usd"]) == (120, 120)
    assert found["failures_by_category"] == {"unknown": 3}


async def test_lists_and_metrics_are_empty_before_telemetry_has_run(lonely_api: Any) -> None:
    workflow = await lonely_api.workflow()
    await lonely_api.execution(workflow)
    assert (await lonely_api.http.get("/api/v1/executions")).json()["items"] == []
    assert (await lonely_api.http.get(f"/api/v1/workflows/{workflow}/metrics")).json()["total_executions"] == 0


async def test_the_answer_is_json_whatever_the_input_holds(api: Any) -> None:
    execution_id = await api.execution(await api.workflow(), input={"who": 'é"\\\u2028😀'})
    answer = await api.http.get(f"/api/v1/executions/{execution_id}")
    assert msgspec.json.decode(answer.content)["input_variables"] == {"who": 'é"\\\u2028😀'}
