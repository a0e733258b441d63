"""The HTTP server: uvicorn, driven by this process rather than driving it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from millrace_shared.errors import SettingsInvalid

REQUEST_HEAD_BYTES_MAX = 64 * 1024
WEBSOCKET_MESSAGE_BYTES_MAX = 64 * 1024
"""Clients have nothing to say on our WebSockets."""
KEEP_ALIVE_S = 75
BACKLOG = 2048


class Server(uvicorn.Server):
    """A uvicorn server without signal handlers of its own: `millrace_shared.service` has them."""

    def __init__(self, app: ASGIApp, host: str, port: int, drain_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http="httptools",
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
