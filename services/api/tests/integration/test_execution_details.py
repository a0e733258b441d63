"""What an execution shows of itself: its detail, waited for or not, its timeline, items and events."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from millrace_shared import subjects
from millrace_shared.bus.log_reader import read_last, read_subject
from millrace_shared.codec import decode_request
from millrace_shared.messages import (
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
    async with asyncio.timeout(60):
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


async def test_the_answer_is_json_whatever_the_input_holds(api: Any) -> None:
    execution_id = await api.execution(await api.workflow(), input={"who": 'é"\\\u2028😀'})
    answer = await api.http.get(f"/api/v1/executions/{execution_id}")
    assert msgspec.json.decode(answer.content)["input_variables"] == {"who": 'é"\\\u2028😀'}
