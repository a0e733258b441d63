"""Accepting and cancelling executions, with no orchestrator and no telemetry but what the test plays."""

import asyncio
from typing import Any

import pytest

from millrace_shared import subjects
from millrace_shared.bus.log_reader import read_last, read_subject
from millrace_shared.codec import decode_inbox, decode_request
from millrace_shared.messages import (
    CancelRequest,
    ExecutionFinished,
)
from millrace_shared.values import Payload

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
