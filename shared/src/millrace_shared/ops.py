"""The operations endpoint of a service without a public API: /healthz, /readyz and /metrics on one small HTTP server.

/healthz says that the process is alive; /readyz checks its dependencies by name and answers 503 while one is missing;
/metrics is Prometheus text. It is read by supervisors and scrapers a few times a minute, so it is asyncio and nothing
else: no framework's memory in three processes for three paths.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from prometheus_client import REGISTRY, generate_latest

READ_TIMEOUT_S = 5.0
HEAD_BYTES_MAX = 8 * 1024
CHECK_TIMEOUT_S = 2.0

Check = Callable[[], Awaitable[None]]
"""Raises when the dependency is not usable; the message must hold no secret."""


async def readiness(checks: Mapping[str, Check]) -> tuple[bool, dict[str, str]]:
    """Run every check, each within `CHECK_TIMEOUT_S`. Returns (all passed, {name: "ok" or the reason})."""

    async def run(check: Check) -> str:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await check()
        except TimeoutError:
            return f"no answer within {CHECK_TIMEOUT_S:g} s"
        except Exception as error:  # noqa: BLE001  a dependency may fail in any way, and the report names it
            return f"{type(error).__name__}: {error}"
        return "ok"

    reports = dict(zip(checks, await asyncio.gather(*map(run, checks.values())), strict=True))
    return all(report == "ok" for report in reports.values()), reports


class OpsServer:
    """Serves the three paths until `stop`."""

    def __init__(self, host: str, port: int, checks: Mapping[str, Check]) -> None:
        self._host = host
        self._port = port
        self._checks = checks
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Start to listen."""
        self._server = await asyncio.start_server(self._serve, self._host, self._port, limit=HEAD_BYTES_MAX)

    async def stop(self) -> None:
        """Stop to listen."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(READ_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, _, rest = head.decode("latin-1").partition(" ")
                status, kind, body = await self._answer(method, rest.split(" ", 1)[0])
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + (b"" if method == "HEAD" else body)
                )
                await writer.drain()
        writer.close()

    async def _answer(self, method: str, path: str) -> tuple[str, str, bytes]:
        if method not in {"GET", "HEAD"}:
            return "405 Method Not Allowed", "text/plain", b"only GET\n"
        match path.partition("?")[0]:
            case "/healthz":
                return "200 OK", "application/json", b'{"status":"alive"}'
            case "/readyz":
                ready, reports = await readiness(self._checks)
                body = msgspec.json.encode({"status": "ready" if ready else "not ready", "checks": reports})
                return ("200 OK" if ready else "503 Service Unavailable"), "application/json", body
            case "/metrics":
                return "200 OK", "text/plain; version=0.0.4; charset=utf-8", generate_latest(REGISTRY)
            case _:
                return "404 Not Found", "text/plain", b"there are /healthz, /readyz and /metrics\n"
