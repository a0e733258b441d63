"""The server: reads requests, asks the script, and sends what it says."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import itertools
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Self

import msgspec

from millrace_shared.testing.providers import anthropic_protocol, openai_protocol
from millrace_shared.testing.providers.quota import Quota
from millrace_shared.testing.providers.replies import Call, Protocol, Reply, refused

Script = Reply | Sequence[Reply] | Callable[[Call], Reply | Awaitable[Reply]]

BODY_BYTES_MAX = 64 * 1024 * 1024
HEAD_BYTES_MAX = 64 * 1024
POLL_S = 0.005
_STARTED_WITHIN_S = 30.0
_CLOSED_WITHIN_S = 1.0
_ERRORS_FROM = 400

_PROTOCOLS: Mapping[str, Protocol] = {"/chat/completions": "openai", "/messages": "anthropic"}
_MODULES: Mapping[Protocol, ModuleType] = {"openai": openai_protocol, "anthropic": anthropic_protocol}


class _Broken(Exception):
    """The connection ends here, as the reply demands."""


class FakeProviders:
    """Serves both protocols on one port while it is entered.

    Args:
        script: what to reply; may be replaced at any time.
        quota: what is refused with 429; may be replaced at any time.
    """

    def __init__(self, script: Script | None = None, *, quota: Quota | None = None) -> None:
        self.quota = quota
        self.calls: list[Call] = []
        self._script: Script = Reply(text="ok")
        self._remaining: Iterator[Reply] = itertools.repeat(Reply(text="ok"))
        if script is not None:
            self.script = script
        self._numbers = itertools.count(1)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fake-providers", daemon=True)
        self._listening = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._port = 0
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def script(self) -> Script:
        """What is replied: to one call after the other, from the first on when it is set."""
        return self._script

    @script.setter
    def script(self, script: Script) -> None:
        if isinstance(script, Sequence):
            self._remaining = itertools.chain(script, itertools.repeat(script[-1]))
        elif isinstance(script, Reply):
            self._remaining = itertools.repeat(script)
        self._script = script

    @property
    def url(self) -> str:
        """Where the server is."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def openai_url(self) -> str:
        """What OpenAI's client takes as its base URL."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """What Anthropic's client takes as its base URL."""
        return self.url

    def answered(self, status: int = 200) -> list[Call]:
        """Return the calls that were answered with `status`."""
        return [call for call in self.calls if call.status == status]

    def __enter__(self) -> Self:
        """Start to listen."""
        self._thread.start()
        if not self._listening.wait(_STARTED_WITHIN_S):
            raise TimeoutError("the fake providers do not listen")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and end what is going on."""
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=HEAD_BYTES_MAX, backlog=1024)
        self._port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stop.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # Clients may leave at any point, and the task ends with the server: nobody waits for its outcome.
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError, _Broken):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._connections.discard(task)
            writer.close()
            try:
                async with asyncio.timeout(_CLOSED_WITHIN_S):
                    await writer.wait_closed()
            except (OSError, TimeoutError, asyncio.CancelledError):
                # Whoever does not read what was sent would hold the connection, and the server, for ever.
                writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and answer it. Returns whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        size = int(headers.get("content-length") or 0)
        if size > BODY_BYTES_MAX:
            await _send(writer, 413, b"{}")
            return False
        body = await reader.readexactly(size)
        path = request_line.split(" ")[1].partition("?")[0]
        protocol = next((protocol for end, protocol in _PROTOCOLS.items() if path.endswith(end)), None)
        if protocol is None:
            await _send(writer, 404, b'{"error": {"message": "there is nothing here"}}')
            return True
        call = Call(next(self._numbers), protocol, headers, msgspec.json.decode(body), time.monotonic())
        self.calls.append(call)
        try:
            await self._answer(call, reader, writer)
            call.fate = "sent"
        except _Broken:
            call.fate = "broken"
            raise
        except (OSError, EOFError, asyncio.CancelledError):
            call.fate = "left"
            raise
        return True

    async def _answer(self, call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = await self._said(call)
        if self.quota is not None and said.status < _ERRORS_FROM:
            tokens = _input_tokens(call, said) + said.output_count()
            said = self.quota.admit(tokens, time.monotonic()) or said
        await _wait(said, reader)
        if said.break_after_pieces == 0:
            raise _Broken
        call.status = said.status
        module = _MODULES[call.protocol]
        if said.status >= _ERRORS_FROM:
            wait = {} if said.retry_after_s is None else {"Retry-After": f"{said.retry_after_s:g}"}
            await _send(writer, said.status, said.body or msgspec.json.encode(module.error(said)), wait)
            return
        call.input_tokens, call.output_tokens = _input_tokens(call, said), said.output_count()
        call.cached_tokens = said.cached_tokens
        if said.body is not None:
            await _send(writer, said.status, said.body, kind="text/event-stream" if call.stream else "application/json")
        elif call.stream:
            await _stream(writer, module.events(call, said), said)
        elif said.size_bytes is not None and math.isinf(said.size_bytes):
            await _stream(writer, itertools.chain((b'{"id": "',), (piece.encode() for piece in said.pieces())), said)
        else:
            whole = said if said.size_bytes is None else dataclasses.replace(said, text="".join(said.pieces()))
            await _send(writer, said.status, msgspec.json.encode(module.completion(call, whole)))

    async def _said(self, call: Call) -> Reply:
        if not callable(self._script):
            return next(self._remaining)
        try:
            said = self._script(call)
            return await said if inspect.isawaitable(said) else said
        except Exception as error:  # noqa: BLE001  the client, and so the test, is to see it
            return refused(500, "script_failed", f"the test's script raised {type(error).__name__}: {error}")


def _input_tokens(call: Call, said: Reply) -> int:
    return call.input_count() if said.input_tokens is None else said.input_tokens


async def _wait(said: Reply, reader: asyncio.StreamReader) -> None:
    """Wait as the reply demands, but not for a client that has left."""
    until = time.monotonic() + said.delay_s
    while time.monotonic() < until or (said.hold is not None and not said.hold.is_set()):
        if reader.at_eof():
            raise EOFError
        left_s = until - time.monotonic()
        await asyncio.sleep(min(left_s, 10 * POLL_S) if left_s > 0 else POLL_S)


async def _send(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    extra: Mapping[str, str] | None = None,
    kind: str = "application/json",
) -> None:
    headers = {"Content-Type": kind, "Content-Length": str(len(body)), **(extra or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status} {'OK' if status < _ERRORS_FROM else 'Error'}\r\n{lines}\r\n".encode() + body)
    await writer.drain()


async def _stream(writer: asyncio.StreamWriter, pieces: Iterator[bytes], said: Reply) -> None:
    """Send pieces as they come: each is a chunk of HTTP."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number, piece in enumerate(pieces):
        if number == said.break_after_pieces:
            await writer.drain()
            raise _Broken
        if number and said.piece_delay_s:
            await asyncio.sleep(said.piece_delay_s)
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        if writer.is_closing():
            raise ConnectionResetError("the client left")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
