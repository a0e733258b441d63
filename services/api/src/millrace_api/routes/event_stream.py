"""An execution's feed as server-sent events: what `/ws/executions/{id}` shows, for clients that speak plain HTTP.

A message is an event with the same `id` and the same data, called by its name. A client that comes back with the last
id, in `Last-Event-ID` as browsers do or in `?last_event_id=`, misses nothing and sees nothing twice, whichever process
of the api answers.

| what happens | what the client sees |
|---|---|
| nothing, for 15 s | a comment, so that proxies and the client know that the stream lives |
| the execution has ended and everything was sent | the end of the stream |
| it comes back after that | 204: browsers then stop to ask |
| this server stops, or the bus does not answer | the end of the stream: come back with the last id |
| it takes nothing for 10 s | the connection is closed: come back with the last id |

Nothing is kept for a reader: what it has not seen is read from the streams when it can take it. So a slow one costs a
few hundred kilobytes, and no execution waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from millrace_api.adapters.execution_watch import ExecutionWatch
from millrace_api.adapters.places import Places
from millrace_api.domain.positions import Position
from millrace_api.routes.exchange import PREFIX, Caller, adapters
from millrace_shared.errors import BusUnavailable, UpgradeNeeded

HEARTBEAT_S = 15.0
SEND_TIMEOUT_S = 10.0
"""A reader that takes nothing for this long is too slow."""
RETRY_MS = 1_000
"""How long browsers wait before they come back."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back otherwise
]

router = APIRouter(prefix=PREFIX, tags=["executions"])
log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class _SlowReader(Exception):
    """The reader does not take its messages."""


@router.get(
    "/executions/{execution_id}/stream",
    summary="Follow an execution",
    response_class=Response,
    responses={
        200: {"description": "Events until the execution has ended.", "content": {"text/event-stream": {}}},
        204: {"description": "The execution has ended, and nothing comes after the last id."},
    },
)
async def stream_execution(
    request: Request,
    caller: Caller,
    execution_id: str,
    last_event_id: Annotated[str | None, Header(max_length=100, description="The id of the last event seen.")] = None,
    after: Annotated[
        str | None, Query(alias="last_event_id", max_length=100, description="The same, for who cannot set headers.")
    ] = None,
) -> Response:
    """Everything of one execution as server-sent events, from its beginning or from an event on, until it has ended."""
    offered = adapters(request)
    position = Position.parse(last_event_id or after)
    await offered.executions.check_log(caller.workspace, execution_id)
    if await offered.watch.is_over(execution_id, position):
        return Response(status_code=204)
    return _EventStream(offered.watch, offered.sockets, execution_id, position)


class _EventStream(Response):
    """Sends a feed. It takes one of the places that WebSockets take."""

    def __init__(self, watch: ExecutionWatch, places: Places, execution_id: str, after: Position) -> None:
        super().__init__()
        self._watch = watch
        self._places = places
        self._execution_id = execution_id
        self._after = after

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Serve until the feed ends, the reader leaves, or this process stops."""
        with self._places.take():
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            sending = asyncio.ensure_future(self._send_all(send))
            others = [asyncio.ensure_future(_left(receive)), asyncio.ensure_future(self._watch.stopped())]
            try:
                await asyncio.wait({sending, *others}, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    sending.cancel()
                    await asyncio.wait({sending})
                _raise_unless_expected(sending)
                await _send(send, b"", more=False)
            except _SlowReader:
                log.info("a reader of %s took nothing for %g s: its stream is cut", self._execution_id, SEND_TIMEOUT_S)
            finally:
                for task in (sending, *others):
                    task.cancel()
                await asyncio.gather(sending, *others, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        await _send(send, b"retry: %d\n\n" % RETRY_MS)
        async with aclosing(self._watch.messages(self._execution_id, self._after)) as messages:
            while (event := await _next_of(messages, send)) is not None:
                await _send(send, event)


async def _next_of(messages: AsyncGenerator[dict[str, Any]], send: Send) -> bytes | None:
    """Return the next message as an event, or None at the end; the stream shows that it lives meanwhile."""
    coming = asyncio.ensure_future(anext(messages, None))
    try:
        while not (await asyncio.wait({coming}, timeout=HEARTBEAT_S))[0]:
            await _send(send, b": still here\n\n")
        message = coming.result()
    finally:
        if not coming.done():
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
    if message is None:
        return None
    name, data = message["event"].encode(), _encode(message["data"])
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (message["id"].encode(), name, data)


def _raise_unless_expected(sending: asyncio.Future[None]) -> None:
    """Pass what a feed may end with: its end, and that the client has to come back for more.

    Raises:
        _SlowReader: nothing more can be said.
    """
    error = None if sending.cancelled() else sending.exception()
    if isinstance(error, BusUnavailable | UpgradeNeeded):
        log.warning("a feed ends: %s", error)
    elif error is not None:
        raise error


async def _left(receive: Receive) -> None:
    """Return when the reader has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    try:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await send({"type": "http.response.body", "body": body, "more_body": more})
    except TimeoutError:
        raise _SlowReader from None
