"""The WebSockets: what they show, where they begin, how they end."""

import asyncio
import json
import time
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from millrace_api.adapters.workflow_feed import FeedEnded
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import encode
from millrace_shared.messages import (
    ErrorInfo,
    ExecutionFinished,
    StepCompleted,
    StepFailed,
    StepRetryScheduled,
    StepScheduled,
    StepSkipped,
    TokenDelta,
)
from millrace_shared.values import Payload

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = {"Authorization": "Bearer test-bootstrap-key"}
UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"


async def receive(socket: websockets.ClientConnection, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(60):
        return [json.loads(await socket.recv()) for _ in range(count)]


async def receive_all(socket: websockets.ClientConnection) -> tuple[list[dict[str, Any]], int | None]:
    messages = []
    async with asyncio.timeout(60):
        try:
            while True:
                messages.append(json.loads(await socket.recv()))
        except ConnectionClosed as closed:
            return messages, closed.rcvd.code if closed.rcvd else None


async def token(api: Any, execution_id: str, number: int) -> None:
    delta = TokenDelta(execution_id, "greet", 1, number, f"word-{number} ", time.time())
    await api.orchestrator.publisher.publish(Outgoing(subjects.fact(execution_id, "token_delta"), encode(delta)))


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_an_execution_is_shown_from_its_beginning_to_its_end(api: Any, prefix: str) -> None:
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    url = f"{api.ws}{prefix}/ws/executions/{execution_id}"
    async with connect(url, additional_headers=KEY) as socket:
        first = await receive(socket, 2)
        assert [message["event"] for message in first] == ["execution.started", "step.scheduled"]
        await token(api, execution_id, 1)
        (live,) = await receive(socket, 1)
        assert (live["event"], live["data"]["text"]) == ("llm.token", "word-1 ")
        assert live["data"]["execution_id"] == execution_id
        await api.orchestrator.finish(execution_id)
        rest, code = await receive_all(socket)
    assert [message["event"] for message in rest] == ["step.completed", "execution.finished"]
    assert rest[0]["data"]["output"] == "hello"
    assert code == 1000


async def test_a_viewer_that_comes_back_misses_nothing_and_sees_nothing_twice(api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    for number in range(3):
        await token(api, execution_id, number)
    await api.orchestrator.append(execution_id, StepScheduled("greet", 2), StepScheduled("greet", 3))
    await api.orchestrator.finish(execution_id)
    url = f"{api.ws}/ws/executions/{execution_id}"
    async with connect(url, additional_headers=KEY) as socket:
        whole, _ = await receive_all(socket)
    assert len(whole) == 3 + 2 + 2 + 2
    assert len({message["id"] for message in whole}) == len(whole)
    for seen in range(1, len(whole)):
        async with connect(f"{url}?last_event_id={whole[seen - 1]['id']}", additional_headers=KEY) as socket:
            rest, code = await receive_all(socket)
        assert rest == whole[seen:]
        assert code == 1000


async def test_a_viewer_that_is_there_from_the_start_sees_every_transition_once(api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    async with connect(f"{api.ws}/ws/executions/{execution_id}", additional_headers=KEY) as socket:
        await api.orchestrator.start(execution_id)
        for attempt in range(2, 400):  # more than the follower holds at once
            await api.orchestrator.append(execution_id, StepScheduled("greet", attempt))
        await api.orchestrator.finish(execution_id)
        messages, code = await receive_all(socket)
    versions = [int(message["id"].split(".")[0]) for message in messages]
    assert versions == sorted(versions)
    assert len(messages) == 2 + 398 + 2
    assert code == 1000


async def test_a_workflow_shows_the_start_and_end_of_its_executions_alone(api: Any) -> None:
    mine, other = await api.workflow(), await api.workflow()
    running = await api.execution(mine)
    await api.orchestrator.start(running)  # before anybody watches
    async with connect(f"{api.ws}/ws/workflows/{mine}", additional_headers=KEY) as socket:
        strange = await api.execution(other)
        await api.orchestrator.start(strange)
        await api.orchestrator.finish(strange)
        failing = await api.execution(mine)
        await api.orchestrator.start(failing)
        await api.orchestrator.append(
            failing, ExecutionFinished("failed", error=ErrorInfo("x", "tool_error", "it broke"))
        )
        await api.orchestrator.finish(running)
        messages = await receive(socket, 3)
    assert [(one["event"], one["data"]["execution_id"]) for one in messages] == [
        ("workflow_started", failing),
        ("workflow_failed", failing),
        ("workflow_completed", running),
    ]
    data = messages[1]["data"]
    assert set(data) == {"execution_id", "workflow_id", "timestamp", "status", "duration_seconds", "error"}
    assert (data["status"], data["error"]) == ("failed", "it broke")
    assert data["duration_seconds"] > 0
    assert messages[2]["data"]["duration_seconds"] > 0


async def test_a_step_shows_what_happens_to_it(api: Any) -> None:
    workflow = await api.workflow(
        steps={"greet": {"name": "Say hello", "transform": 1}, "other": {"needs": ["greet"], "transform": 1}}
    )
    execution_id = await api.execution(workflow)
    async with connect(f"{api.ws}/ws/workflows/{workflow}/step/greet", additional_headers=KEY) as socket:
        await api.orchestrator.start(execution_id)
        now = time.time()
        error = ErrorInfo("x", "timeout", "too slow")
        await api.orchestrator.append(
            execution_id,
            StepRetryScheduled("greet", 1, now, error, started_at=now - 1, finished_at=now),
            StepScheduled("greet", 2),
            StepScheduled("other", 1),
        )
        await api.orchestrator.append(
            execution_id,
            StepCompleted("greet", 2, output=Payload(data={"a": 1}), started_at=now - 0.5, finished_at=now),
            StepFailed("greet", error, attempt=2),
            StepSkipped("greet", "the condition is false"),
        )
        messages = await receive(socket, 5)
    assert [one["event"] for one in messages] == [
        "step_started",
        "step_retrying",
        "step_completed",
        "step_failed",
        "step_skipped",
    ]
    assert {one["data"]["step_name"] for one in messages} == {"Say hello"}
    assert [one["data"]["retry_count"] for one in messages] == [0, 1, 1, 1, 0]
    assert messages[2]["data"]["output"] == {"a": 1}
    assert messages[2]["data"]["duration_seconds"] == 0.5
    assert messages[3]["data"]["error"] == "too slow"


async def test_the_bus_is_listened_to_only_while_a_workflow_is_watched(api: Any, eventually: Any) -> None:
    feed = api.running.adapters.feed

    async def silent() -> bool:
        return feed.listening is False

    assert await eventually(silent)
    workflow = await api.workflow()
    async with connect(f"{api.ws}/ws/workflows/{workflow}", additional_headers=KEY):
        async with connect(f"{api.ws}/ws/workflows/{workflow}", additional_headers=KEY):
            assert feed.listening is True
        assert feed.listening is True
    assert await eventually(silent)


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/ws/executions/{id}", {}, 401, "unauthorized"),
        ("/ws/executions/{id}?access_token=wrong", {}, 401, "unauthorized"),
        (f"/ws/executions/{UNKNOWN_ID}", KEY, 404, "execution_not_found"),
        ("/ws/executions/not-an-id", KEY, 404, "execution_not_found"),
        ("/ws/executions/{id}?last_event_id=yesterday", KEY, 422, "request_invalid"),
        ("/ws/workflows/none", KEY, 404, "workflow_not_found"),
        ("/ws/workflows/{workflow}/step/none", KEY, 404, "step_not_found"),
    ],
)
async def test_a_bad_handshake_is_refused_with_a_problem(
    api: Any, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    workflow = await api.workflow()
    execution_id = await api.execution(workflow)
    with pytest.raises(InvalidStatus) as refused:
        await connect(
            api.ws + path.replace("{id}", execution_id).replace("{workflow}", workflow), additional_headers=headers
        )
    response = refused.value.response
    assert response.status_code == status
    assert json.loads(response.body or b"{}")["code"] == code


async def test_browsers_may_send_the_key_in_the_address_or_as_a_subprotocol(api: Any) -> None:
    workflow = await api.workflow()
    async with connect(f"{api.ws}/ws/workflows/{workflow}?access_token=test-bootstrap-key"):
        pass
    offered = ["millrace.bearer.test-bootstrap-key"]
    async with connect(f"{api.ws}/ws/workflows/{workflow}", subprotocols=offered) as socket:  # type: ignore[arg-type]
        assert socket.subprotocol == offered[0]


async def test_a_reader_that_is_too_slow_is_told_so(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace_api.adapters.workflow_feed.MESSAGES_MAX", 3)
    feed = await api.running.adapters.feed.open("default", "some-workflow")
    for number in range(4):
        feed.put({"n": number})
    with pytest.raises(FeedEnded, match="3 messages wait") as ended:
        await feed.next()
    assert ended.value.slow_reader is True
    await api.running.adapters.feed.close(feed)


async def test_stopping_ends_waits_and_sockets(start_api: Any, eventually: Any) -> None:
    async with start_api() as api:
        workflow = await api.workflow()
        socket = await connect(f"{api.ws}/ws/workflows/{workflow}", additional_headers=KEY)
        waiting = asyncio.ensure_future(api.http.post("/api/v1/executions?wait=60", json={"workflow": workflow}))

        async def waits() -> bool:
            return bool(api.running.adapters.waiting.count)

        assert await eventually(waits)
        api.running.adapters.waiting.stop()
        answer = await waiting
        assert answer.status_code == 202
    _, code = await receive_all(socket)
    assert code in {1012, 1013}
