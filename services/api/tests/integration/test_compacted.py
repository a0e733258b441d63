"""An execution whose log was compacted is answered as it was before."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from millrace_api.adapters.log_follower import LogFollower
from millrace_api.domain.filters import sequence_cursor
from millrace_shared import subjects
from millrace_shared.bus.compacted import Entry, pack
from millrace_shared.bus.log_reader import read_log
from millrace_shared.bus.publisher import Outgoing

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = {"Authorization": "Bearer test-bootstrap-key"}


async def compact(api: Any, execution_id: str, *, purge: bool = True) -> None:
    connection = api.orchestrator.connection
    stored = await read_log(connection, execution_id)
    packed = pack([Entry(one.sequence, one.payload) for one in stored], 1.0)
    message = Outgoing(subjects.log(execution_id), packed, stored[-1].sequence)
    ack = await api.orchestrator.publisher.publish(message)
    if purge:
        await connection.jetstream_api("STREAM.PURGE.EVENTS", {"filter": message.subject, "seq": ack.seq})


async def ended(api: Any, workflow: str) -> str:
    execution_id: str = await api.execution(workflow)
    await api.orchestrator.start(execution_id)
    await api.orchestrator.finish(execution_id)
    return execution_id


async def fed(api: Any, path: str) -> list[Any]:
    """Return what a socket shows until it is closed."""
    shown = []
    async with connect(f"{api.ws}{path}", additional_headers=KEY) as socket, asyncio.timeout(60):
        while True:
            try:
                shown.append(json.loads(await socket.recv()))
            except ConnectionClosed:
                return shown


async def answers(api: Any, execution_id: str, cursors: list[int]) -> list[Any]:
    """Return everything that is read of an execution's log."""
    path = f"/api/v1/executions/{execution_id}"
    read: list[Any] = []
    for query in ("", "?limit=1", *(f"?cursor={sequence_cursor(cursor)}&limit=1" for cursor in cursors)):
        answer = await api.http.get(f"{path}/events{query}")
        assert answer.status_code == 200, answer.text
        read.append(answer.json())
    for part in ("", "/timeline", "/why"):
        answer = await api.http.get(f"{path}{part}")
        assert answer.status_code == 200, answer.text
        read.append({name: value for name, value in answer.json().items() if name != "as_of"})
    feed = await fed(api, f"/ws/executions/{execution_id}")
    positions = [message["id"] for message in feed if "id" in message]
    read += [feed, await fed(api, f"/ws/executions/{execution_id}?last_event_id={positions[0]}")]
    return read


@pytest.mark.parametrize("purge", [True, False])
@pytest.mark.parametrize("projected", [True, False])
async def test_everything_is_answered_as_before(api: Any, *, projected: bool, purge: bool) -> None:
    execution_id = await ended(api, await api.workflow())
    if projected:
        await api.project(api.orchestrator.view(execution_id))
    cursors = [one.sequence for one in await read_log(api.orchestrator.connection, execution_id)]
    before = await answers(api, execution_id, cursors)
    await compact(api, execution_id, purge=purge)
    assert await answers(api, execution_id, cursors) == before


async def test_it_can_be_retried_forked_replayed_and_compared(api: Any) -> None:
    workflow = await api.workflow()
    execution_id, other = await ended(api, workflow), await ended(api, workflow)
    await compact(api, execution_id)
    await api.orchestrator.connection.jetstream_api(
        "STREAM.PURGE.INBOX", {"filter": subjects.start(execution_id)}
    )  # as a sweep does: the log alone holds its request
    for path, body in (("fork", {"from_step": "greet"}), ("replay", {})):
        answer = await api.http.post(f"/api/v1/executions/{execution_id}/{path}", json=body)
        assert answer.status_code == 202, answer.text
    answer = await api.http.get(f"/api/v1/executions/{execution_id}/compare/{other}")
    assert answer.status_code == 200, answer.text
    for path in ("pause", "cancel"):
        answer = await api.http.post(f"/api/v1/executions/{execution_id}/{path}", json={})
        assert (answer.status_code, answer.json()["code"]) == (409, "execution_already_finished")


@pytest_asyncio.fixture(loop_scope="module")
async def follower(api: Any) -> AsyncIterator[LogFollower]:
    execution_id = await api.execution(await api.workflow())
    async with LogFollower(api.orchestrator.connection, execution_id, stored=False) as opened:
        await api.orchestrator.start(execution_id)
        await api.orchestrator.finish(execution_id)
        await compact(api, execution_id)
        yield opened


async def test_who_watches_live_is_told_nothing_twice(api: Any, follower: LogFollower) -> None:
    async with asyncio.timeout(60):
        assert [(await follower.next()).version for _ in range(3)] == [1, 2, 3]
    workflow = await api.workflow()
    async with connect(f"{api.ws}/ws/workflows/{workflow}", additional_headers=KEY) as socket:
        await compact(api, await ended(api, workflow))
        shown = await ended(api, workflow)
        messages: list[Any] = []
        async with asyncio.timeout(60):
            while not messages or messages[-1]["data"].get("execution_id") != shown:
                messages.append(json.loads(await socket.recv()))
    events = [one["event"] for one in messages[:-1]]
    assert len(events) == len(set(events)) > 0
    assert await follower.poll() is None
