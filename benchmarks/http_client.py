"""A lean HTTP/1.1 client for load: keep-alive connections on asyncio protocols, about 25 µs of processor per request.

Usual clients cost more than the service under test, and would measure themselves. This one speaks what our api
answers with: a status line, headers with Content-Length, a body. It is no general client.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, cast
from urllib.parse import urlsplit

TICKS = os.sysconf("SC_CLK_TCK")
ANSWER_S_MAX = 120.0
"""Twice what the longest `?wait` takes. A benchmark that got no answer says so, and does not hang."""


class _Connection(asyncio.Protocol):
    """One keep-alive connection, with one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of asyncio's

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent: the server ends a connection that was idle for long."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[:head_end].lower()
        start = head.find(b"content-length:")
        length = 0 if start < 0 else int(head[start + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < head_end + 4 + length:
            return
        body = self._buffer[head_end + 4 : head_end + 4 + length]
        self._buffer = self._buffer[head_end + 4 + length :]
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), body))

    async def send(self, request: bytes) -> tuple[int, bytes]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class HttpClient:
    """A pool of connections to one server. An async context manager."""

    def __init__(self, url: str, key: str, connections: int = 64) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = f"Host: {self._host}:{self._port}\r\nAuthorization: Bearer {key}\r\n"
        self._count = connections
        self._free: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()

    async def __aenter__(self) -> Self:
        for _ in range(self._count):
            self._free.put_nowait(await self._open())
        return self

    async def __aexit__(self, *_: object) -> None:
        while not self._free.empty():
            self._free.get_nowait().close()

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send one request on a free connection; return status and body."""
        request = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        connection = await self._free.get()
        try:
            if not connection.is_open:
                connection = await self._open()
            async with asyncio.timeout(ANSWER_S_MAX):
                return await connection.send(request)
        except BaseException:
            connection.close()  # its answer may still come, and is not that of the next request
            raise
        finally:
            self._free.put_nowait(connection)

    async def _open(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
        return connection


@dataclass
class Load:
    """What a run of requests came to."""

    seconds: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float:
        """Return a latency percentile in milliseconds."""
        ordered = sorted(self.latencies_s)
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 2) if ordered else 0.0


async def closed_loop(
    client: HttpClient, count: int, concurrency: int, path: str, body_of: Callable[[int], bytes]
) -> Load:
    """POST `count` bodies, `concurrency` at a time, as fast as the answers come."""
    load = Load()
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            began = time.perf_counter()
            status, _ = await client.request("POST", path, body_of(number))
            load.latencies_s.append(time.perf_counter() - began)
            load.statuses[status] = load.statuses.get(status, 0) + 1

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    load.seconds = time.perf_counter() - began
    return load


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the processor time that processes have used so far, with that of their children (Linux).

    Of children that have ended it is their parent who knows: Postgres ends its workers and starts others, so one may
    end while this reads.
    """
    return sum(_cpu_ticks(child, own=2) for pid in pids for child in children(pid)) / TICKS + (
        sum(_cpu_ticks(pid, own=4) for pid in pids) / TICKS
    )


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and that live (Linux)."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in found.split()]


def _cpu_ticks(pid: int, own: int) -> int:
    """Sum the first `own` of: user and system time of a process, and those of its children that have ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(ticks) for ticks in stat.rsplit(") ", 1)[1].split()[11 : 11 + own])


def memory_mb(pid: int) -> int:
    """Return the resident memory of a process (Linux)."""
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
        line = next(line for line in status if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024)
