"""The WebSockets. They are served below /api/v1 and, since their paths were promised without it, at the root too.

| close code | why |
|---|---|
| 1000 | the execution has ended and everything was sent |
| 1012 | this server stops: connect again |
| 1013 | something may have been missed, the bus does not answer, or a later version writes the log: connect again |
| 4408 | the reader is too slow: messages were piling up |

An execution's feed is resumed with `?last_event_id=<id of the last message>`. Connections are refused, before they are
opened, with the same problem documents as requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from starlette.websockets import WebSocket, WebSocketDisconnect

from millrace_api.adapters.workflow_feed import FeedEnded
from millrace_api.domain.positions import Position
from millrace_api.errors import Refused
from millrace_api.identity import SUBPROTOCOL_PREFIX
from millrace_api.routes.exchange import adapters
from millrace_shared.errors import BusUnavailable, UpgradeNeeded

SEND_TIMEOUT_S = 10.0
"""A reader that does not take a message for this long is too slow."""
GOING_AWAY = 1013
SLOW_READER = 4408

router = APIRouter()
log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class _SlowReader(Exception):
    """The reader does not take its messages."""


@router.websocket("/ws/workflows/{ref}")
async def watch_workflow(websocket: WebSocket, ref: str) -> None:
    """Start and end of every execution of a workflow."""
    await _serve_feed(websocket, ref, None)


@router.websocket("/ws/workflows/{ref}/step/{step_id}")
async def watch_step(websocket: WebSocket, ref: str, step_id: str) -> None:
    """What happens to one step in every execution of a workflow."""
    await _serve_feed(websocket, ref, step_id)


@router.websocket("/ws/executions/{execution_id}")
async def watch_execution(
    websocket: WebSocket, execution_id: str, last_event_id: Annotated[str | None, Query()] = None
) -> None:
    """Everything of one execution, from its beginning or from a message on, until it has ended."""
    offered = adapters(websocket)
    identity = offered.authenticator.identify(websocket)
    after = Position.parse(last_event_id)
    await offered.executions.check_log(identity.workspace, execution_id)

    async def serve() -> None:
        async for message in offered.watch.messages(execution_id, after):
            await _send(websocket, message)
        await websocket.close(1000, "the execution has ended")

    with offered.sockets.take():
        await _accept(websocket)
        await _until_gone(websocket, serve)


async def _serve_feed(websocket: WebSocket, ref: str, step_id: str | None) -> None:
    offered = adapters(websocket)
    identity = offered.authenticator.identify(websocket)
    workflow = await offered.workflows.get(identity.workspace, ref)
    if step_id is not None:
        definition = await offered.definitions.get(workflow.content_hash)
        if definition is not None and step_id not in definition.steps:
            raise Refused("step_not_found", f'workflow "{workflow.name}" has no step "{step_id[:64]}"')
    with offered.sockets.take():
        feed = await offered.feed.open(identity.workspace, workflow.id, step_id)

        async def serve() -> None:
            while True:
                await _send(websocket, await feed.next())

        try:
            await _accept(websocket)
            await _until_gone(websocket, serve)
        finally:
            await offered.feed.close(feed)


async def _accept(websocket: WebSocket) -> None:
    """Open the connection, choosing the subprotocol that carried the key, as browsers insist."""
    offered = websocket.scope.get("subprotocols", ())
    chosen = next((name for name in offered if name.startswith(SUBPROTOCOL_PREFIX)), None)
    await websocket.accept(subprotocol=chosen)


async def _until_gone(websocket: WebSocket, serve: Callable[[], Awaitable[None]]) -> None:
    """Serve until that ends or the reader leaves; then say why with a close code."""
    serving = asyncio.ensure_future(serve())
    leaving = asyncio.ensure_future(_left(websocket))
    try:
        await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done() and not serving.done():
            return
        try:
            await serving
        except FeedEnded as end:
            await _close(websocket, SLOW_READER if end.slow_reader else GOING_AWAY, str(end))
        except _SlowReader:
            await _close(websocket, SLOW_READER, "messages are not taken")
        except BusUnavailable:
            await _close(websocket, GOING_AWAY, "the bus does not answer")
        except UpgradeNeeded as error:
            log.warning("a feed ends: %s", error)
            await _close(websocket, GOING_AWAY, str(error))
    finally:
        for task in (serving, leaving):
            task.cancel()
        await asyncio.gather(serving, leaving, return_exceptions=True)


async def _left(websocket: WebSocket) -> None:
    """Return when the reader has left. What it sends meanwhile means nothing here."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


async def _send(websocket: WebSocket, message: dict[str, Any]) -> None:
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await websocket.send_text(_encode(message).decode())
    except TimeoutError:
        raise _SlowReader from None


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await websocket.close(code, reason[:100])
