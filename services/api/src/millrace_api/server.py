"""The HTTP server: uvicorn, driven by this process rather than driving it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from millrace_shared.errors import SettingsInvalid

REQUEST_HEAD_BYTES_MAX = 64 * 1024
"""A request's line and headers, besides what came in one piece with its first byte (256 KiB at most)."""
WEBSOCKET_MESSAGE_BYTES_MAX = 64 * 1024
"""Clients have nothing to say on our WebSockets."""
KEEP_ALIVE_S = 75
BACKLOG = 2048


class BoundedHead(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a bound: its parser keeps request lines, headers and trailers of any length.

    What counts is what came since something was of use: since a request or its body began or ended, or went on.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept_bytes = 0
        self._was_used = False

    def data_received(self, data: bytes) -> None:
        """Take what came, and end the connection if too much of it is kept."""
        self._was_used = False
        super().data_received(data)
        self._kept_bytes = 0 if self._was_used else self._kept_bytes + len(data)
        if self._kept_bytes > REQUEST_HEAD_BYTES_MAX and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.send_400_response(f"The request's head is over {REQUEST_HEAD_BYTES_MAX // 1024} KiB.")
            else:  # an answer may be under way: nothing can be said any more
                self.transport.close()

    def on_message_begin(self) -> None:
        """Begin with a request."""
        self._was_used = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hand a request on."""
        self._was_used = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand a piece of the body on."""
        self._was_used = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._was_used = True
        super().on_message_complete()


class Server(uvicorn.Server):
    """A uvicorn server without signal handlers of its own: `millrace_shared.service` has them."""

    def __init__(self, app: ASGIApp, host: str, port: int, drain_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=BoundedHead,
                ws="websockets-sansio",
                loop="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                ws_per_message_deflate=False,  # 300 KB of state per socket, for small messages
                ws_max_size=WEBSOCKET_MESSAGE_BYTES_MAX,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(drain_s)),
            )
        )
        self._listening = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind, and say so."""
        await super().startup(sockets=sockets)
        self._listening.set()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Return once requests are taken.

        Raises:
            SettingsInvalid: the address cannot be listened on.
        """
        self._task = asyncio.create_task(self.serve(), name="http server")
        listening = asyncio.create_task(self._listening.wait())
        await asyncio.wait({self._task, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._task.done():
            reason = "it is in use" if self._task.cancelled() or self._task.exception() else "it cannot be bound"
            raise SettingsInvalid(f"cannot listen on {self.config.host}:{self.config.port}: {reason}")

    async def stop(self) -> None:
        """Take no more requests, and return once the open ones have ended or their time is up."""
        self.should_exit = True
        if self._task is not None:
            await self._task
