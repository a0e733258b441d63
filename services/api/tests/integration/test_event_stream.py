"""An execution's feed as server-sent events: what it shows, where it begins, how it ends."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from millrace_api.adapters.places import Places
from millrace_api.domain.positions import Position
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import encode
from millrace_shared.errors import BusUnavailable
from millrace_shared.messages import StepScheduled, TokenDelta

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"
Event = dict[str, Any]


class Stream:
    """An open stream, read event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()
        self.comments = 0

    async def next(self) -> Event | None:
        """The next event; None at the end of the stream."""
        event: Event = {}
        async with asyncio.timeout(60):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if not line and "event" in event:
                    return {"id": event["id"], "event": event["event"], "data": json.loads(event["data"])}
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    event[name] = value
        return None

    async def rest(self) -> list[Event]:
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events


@asynccontextmanager
async def opened(api: Any, execution_id: str, after: str | None = None) -> AsyncIterator[Stream]:
    headers = {"Last-Event-ID": after} if after else {}
    url = f"/api/v1/executions/{execution_id}/stream"
    async with api.http.stream("GET", url, headers=headers, timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


async def token(api: Any, execution_id: str, number: int, **fields: Any) -> None:
    delta = TokenDelta(execution_id, "greet", 1, number, f"word-{number} ", time.time(), **fields)
    await api.orchestrator.publisher.publish(Outgoing(subjects.fact(execution_id, "token_delta"), encode(delta)))


async def ended(api: Any) -> str:
    """An execution that has ended, with tokens."""
    execution_id: str = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    for number in range(3):
        await token(api, execution_id, number)
    await api.orchestrator.append(execution_id, StepScheduled("greet", 2))
    await api.orchestrator.finish(execution_id)
    return execution_id


async def test_an_execution_is_shown_as_it_happens(api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    async with opened(api, execution_id) as stream:
        first = [await stream.next() for _ in range(2)]
        assert [event["event"] for event in first if event] == ["execution.started", "step.scheduled"]
        await token(api, execution_id, 1)
        live = await stream.next()
        assert live is not None
        assert (live["event"], live["data"]["text"], live["data"]["execution_id"]) == (
            "llm.token",
            "word-1 ",
            execution_id,
        )
        await api.orchestrator.finish(execution_id)
        rest = await stream.rest()
    assert [event["event"] for event in rest] == ["step.completed", "execution.finished"]
    assert rest[0]["data"]["output"] == "hello"


async def test_it_shows_what_the_websocket_shows(api: Any) -> None:
    execution_id = await ended(api)
    async with opened(api, execution_id) as stream:
        events = await stream.rest()
    watched = [message async for message in api.running.adapters.watch.messages(execution_id, Position())]
    assert [(event["id"], event["event"], event["data"]) for event in events] == [
        (message["id"], message["event"], message["data"]) for message in watched
    ]


async def test_a_client_that_comes_back_misses_nothing_and_sees_nothing_twice(api: Any) -> None:
    execution_id = await ended(api)
    async with opened(api, execution_id) as stream:
        whole = await stream.rest()
    assert len(whole) == 3 + 2 + 1 + 2
    for seen in range(1, len(whole)):
        async with opened(api, execution_id, after=whole[seen - 1]["id"]) as stream:
            assert await stream.rest() == whole[seen:]
    url = f"/api/v1/executions/{execution_id}/stream?last_event_id={whole[2]['id']}"
    assert (await api.http.get(url)).text.count("event: ") == len(whole) - 3


async def test_a_client_that_has_seen_everything_is_told_to_stop_asking(api: Any) -> None:
    execution_id = await ended(api)
    async with opened(api, execution_id) as stream:
        last = (await stream.rest())[-1]["id"]
    answer = await api.http.get(f"/api/v1/executions/{execution_id}/stream", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.content) == (204, b"")


async def test_it_goes_on_with_another_process_of_the_api(api: Any, start_api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    async with start_api() as other, opened(other, execution_id) as stream:
        seen = await stream.next()
        assert seen is not None
    # That process has stopped: its streams ended, and this one has what came after.
    await token(api, execution_id, 7)
    await api.orchestrator.finish(execution_id)
    async with opened(api, execution_id, after=seen["id"]) as stream:
        names = [event["event"] for event in await stream.rest()]
    assert sorted(names) == sorted(["step.scheduled", "llm.token", "step.completed", "execution.finished"])


async def test_a_process_that_stops_ends_its_streams(api: Any, start_api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    async with start_api() as other, opened(other, execution_id) as stream:
        assert await stream.next() is not None
        other.running.adapters.watch.stop()
        rest = await stream.rest()  # the end comes, although the execution goes on
    assert [event["event"] for event in rest] == ["step.scheduled"]


async def test_an_answer_that_begins_again_says_so(api: Any) -> None:
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    await token(api, execution_id, 1, turn=2)
    delta = TokenDelta(execution_id, "greet", 1, 1, "", time.time(), turn=2, restarted=True)
    await api.orchestrator.publisher.publish(Outgoing(subjects.fact(execution_id, "token_delta"), encode(delta)))
    await api.orchestrator.finish(execution_id)
    async with opened(api, execution_id) as stream:
        events = {event["event"]: event["data"] for event in await stream.rest()}
    assert events["llm.token"]["turn"] == 2
    restarted = events["llm.restarted"]
    assert (restarted["step"], restarted["attempt"], restarted["turn"]) == ("greet", 1, 2)
    assert "text" not in restarted


async def test_silence_is_filled_with_comments(api: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any) -> None:
    monkeypatch.setattr("millrace_api.routes.event_stream.HEARTBEAT_S", 0.02)
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    async with opened(api, execution_id) as stream:
        for _ in range(2):
            await stream.next()
        reading = asyncio.ensure_future(stream.next())

        async def is_heard() -> bool:
            return stream.comments > 0

        assert await eventually(is_heard)
        await api.orchestrator.finish(execution_id)
        event = await reading
        assert event is not None
        assert event["event"] == "step.completed"


async def test_a_reader_that_takes_nothing_is_cut_and_holds_nobody_up(
    api: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    monkeypatch.setattr("millrace_api.routes.event_stream.SEND_TIMEOUT_S", 0.2)
    execution_id = await api.execution(await api.workflow())
    await api.orchestrator.start(execution_id)
    taken = api.running.adapters.sockets.taken
    reader, writer = await asyncio.open_connection("127.0.0.1", api.running.port, limit=1024)
    lines = (f"GET /api/v1/executions/{execution_id}/stream HTTP/1.1", "Host: x", "Authorization: Bearer " + _key(api))
    writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())
    await reader.readuntil(b"\r\n\r\n")

    async def is_open() -> bool:
        return bool(api.running.adapters.sockets.taken == taken + 1)

    assert await eventually(is_open)
    text = "x" * 200_000
    for number in range(60):  # more than the buffers of both sides hold
        delta = TokenDelta(execution_id, "greet", 1, number, text, time.time())
        await api.orchestrator.publisher.publish(Outgoing(subjects.fact(execution_id, "token_delta"), encode(delta)))

    async def is_cut() -> bool:
        return bool(api.running.adapters.sockets.taken == taken)

    assert await eventually(is_cut)
    await api.orchestrator.finish(execution_id)
    async with opened(api, execution_id) as stream:  # another reader has all of it
        assert len(await stream.rest()) == 2 + 60 + 2
    writer.transport.abort()


async def test_only_so_many_watch_at_once(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    execution_id = await api.execution(await api.workflow())
    monkeypatch.setattr(api.running.adapters.sockets, "_limit", api.running.adapters.sockets.taken)
    answer = await api.http.get(f"/api/v1/executions/{execution_id}/stream")
    assert (answer.status_code, answer.json()["code"]) == (503, "too_many_watching")
    assert isinstance(api.running.adapters.sockets, Places)


async def test_a_bus_that_fails_ends_the_stream(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    execution_id = await api.execution(await api.workflow())

    async def fails(*_: Any) -> AsyncIterator[Any]:
        raise BusUnavailable("nobody answers")
        yield

    monkeypatch.setattr(type(api.running.adapters.watch), "messages", fails)
    async with opened(api, execution_id) as stream:
        assert await stream.rest() == []


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("{id}", {"Authorization": "Bearer wrong"}, 401, "unauthorized"),
        (UNKNOWN_ID, {}, 404, "execution_not_found"),
        ("{id}", {"Last-Event-ID": "yesterday"}, 422, "request_invalid"),
    ],
)
async def test_bad_requests_are_refused_with_a_problem(
    api: Any, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    execution_id = await api.execution(await api.workflow())
    url = f"/api/v1/executions/{path.replace('{id}', execution_id)}/stream"
    answer = await api.http.get(url, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def _key(api: Any) -> str:
    return str(api.http.headers["authorization"]).removeprefix("Bearer ")
