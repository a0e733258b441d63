"""Many executions at once: lists of them, and what a workflow measures by them."""

from typing import Any

import pytest

from millrace_shared.messages import (
    ErrorInfo,
    ExecutionFinished,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
