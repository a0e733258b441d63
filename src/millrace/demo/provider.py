"""A model provider on this machine that speaks OpenAI's chat completions, for the demo and the tests.

It is not a model and says so in each text. It streams, calls tools, answers by JSON Schema, counts tokens, and fails on
demand by the name of the model:

| model | answer |
|---|---|
| `mock-429` | 429 with `Retry-After: 2` |
| `mock-413` | 413: the request can never fit |
| `mock-401` | 401 |
| `mock-500`, `mock-503` | that status |
| `mock-context` | 400 `context_length_exceeded` |
| `mock-slow`, `mock-slow-<seconds>` | the answer after 30 s, or so many |
| `mock-hangup` | the connection ends without an answer |
| `mock-flaky-<n>` | 500 for the first n calls with the same prompt, then the answer |
| `mock-badjson` | structured answers that are not what was asked for |
| any other | the answer |

`GET /calls` counts them: `{"total": n, "by_model": {...}}`. `python -m millrace.demo.provider` runs it alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import msgspec

from millrace.demo.answers import Answer, Asked, answer, prompt_of, tokens_of

BODY_BYTES_MAX = 8 * 1024 * 1024
HEAD_BYTES_MAX = 64 * 1024
IDLE_TIMEOUT_S = 60.0
SLOW_S = 30.0
SLOW_S_MAX = 600.0
CHUNK_CHARS = 16
PROMPTS_REMEMBERED_MAX = 10_000

_FAILURES: dict[str, tuple[int, str, str]] = {
    "mock-401": (401, "invalid_api_key", "Incorrect API key provided."),
    "mock-413": (413, "rate_limit_exceeded", "Request too large: limit 6000 tokens per minute, requested 104328."),
    "mock-429": (429, "rate_limit_exceeded", "Rate limit reached. Please try again in 2s."),
    "mock-500": (500, "server_error", "The server had an error."),
    "mock-503": (503, "server_error", "The engine is overloaded."),
    "mock-context": (400, "context_length_exceeded", "This model's maximum context length is 8192 tokens."),
}
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Payload Too Large"}


class _HangUp(Exception):
    """The connection ends without an answer."""


class DemoProvider:
    """Serves until left: an async context manager.

    Args:
        host: the address to listen on.
        port: 0 is any free one.
        delay_s: how long an ordinary answer takes.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, delay_s: float = 0.0) -> None:
        self._host = host
        self._wanted_port = port
        self._delay_s = delay_s
        self._server: asyncio.Server | None = None
        self._numbers = itertools.count(1)
        self._seen: Counter[tuple[str, str]] = Counter()
        self._connections: set[asyncio.Task[None]] = set()
        self.calls: Counter[str] = Counter()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        """What MILLRACE_OPENAI_BASE_URL should be."""
        return f"http://{self._host}:{self.port}/v1"

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, self._host, self._wanted_port, limit=HEAD_BYTES_MAX)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening, and end what is going on."""
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # CancelledError too: this task ends with the server, and nobody waits for its outcome.
            with contextlib.suppress(
                OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError, asyncio.CancelledError
            ):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and answer it. Returns whether the connection goes on."""
        async with asyncio.timeout(IDLE_TIMEOUT_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request_line, *lines = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            size = int(headers.get("content-length") or 0)
            if size > BODY_BYTES_MAX:
                await _send(writer, 413, _error("request_too_large", "too large"))
                return False
            body = await reader.readexactly(size)
        method, _, rest = request_line.partition(" ")
        route = (method, rest.partition(" ")[0].partition("?")[0])
        try:
            if route == ("GET", "/calls"):
                await _send(writer, 200, {"total": self.calls.total(), "by_model": dict(self.calls)})
            elif route == ("GET", "/v1/models"):
                await _send(writer, 200, {"object": "list", "data": [{"id": "mock-1", "object": "model"}]})
            elif route == ("POST", "/v1/chat/completions"):
                await self._complete(writer, body)
            else:
                await _send(writer, 404, _error("not_found", f"there is no {' '.join(route)}"))
        except _HangUp:
            return False
        return headers.get("connection", "").lower() != "close"

    async def _complete(self, writer: asyncio.StreamWriter, body: bytes) -> None:
        try:
            request = msgspec.json.decode(body, type=dict[str, Any])
            asked = _asked(request)
        except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
            await _send(writer, 400, _error("invalid_request", f"not a chat request: {error}"))
            return
        self.calls[asked.model] += 1
        failure = await self._misbehave(asked)
        if failure is not None:
            status, code, message = failure
            extra = {"Retry-After": "2"} if status == 429 else {}  # noqa: PLR2004  too many requests
            await _send(writer, status, _error(code, message), extra)
            return
        given = Answer('{"unexpected": true}') if asked.model == "mock-badjson" else answer(asked)
        if asked.model == "mock-badjson" and asked.tools:
            given = Answer(None, (asked.tools[0]["function"]["name"], {"unexpected": True}))
        number = next(self._numbers)
        if request.get("stream"):
            usage = bool((request.get("stream_options") or {}).get("include_usage"))
            await _stream(writer, _chunks(asked, given, number, with_usage=usage))
        else:
            await _send(writer, 200, _completion(asked, given, number))

    async def _misbehave(self, asked: Asked) -> tuple[int, str, str] | None:
        """Wait, hang up, or say with what to fail, as the name of the model demands."""
        model = asked.model
        if model in _FAILURES:
            return _FAILURES[model]
        if model == "mock-hangup":
            raise _HangUp
        if model.startswith("mock-slow"):
            seconds = model.removeprefix("mock-slow").lstrip("-")
            await asyncio.sleep(min(float(seconds or SLOW_S), SLOW_S_MAX))
        elif model.startswith("mock-flaky-"):
            key = (model, prompt_of(asked.messages))
            if len(self._seen) > PROMPTS_REMEMBERED_MAX:
                self._seen.clear()
            self._seen[key] += 1
            if self._seen[key] <= int(model.removeprefix("mock-flaky-")):
                return _FAILURES["mock-500"]
        elif self._delay_s:
            await asyncio.sleep(self._delay_s)
        return None


def _asked(request: dict[str, Any]) -> Asked:
    form = request.get("response_format") or {}
    schema = (form.get("json_schema") or {}).get("schema") if form.get("type") == "json_schema" else None
    return Asked(str(request["model"]), list(request["messages"]), list(request.get("tools") or []), schema)


def _usage(asked: Asked, given: Answer) -> dict[str, int]:
    prompt = tokens_of(asked.messages)
    completion = tokens_of(given.text if given.text is not None else given.tool_call)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _head(asked: Asked, number: int, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-demo-{number}", "object": kind, "created": int(time.time()), "model": asked.model}


def _tool_calls(given: Answer, number: int) -> list[dict[str, Any]]:
    assert given.tool_call is not None
    name, arguments = given.tool_call
    function = {"name": name, "arguments": msgspec.json.encode(arguments).decode()}
    return [{"index": 0, "id": f"call_demo_{number}", "type": "function", "function": function}]


def _completion(asked: Asked, given: Answer, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": given.text}
    if given.tool_call is not None:
        message["tool_calls"] = _tool_calls(given, number)
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if given.tool_call else "stop"}
    return {**_head(asked, number, "chat.completion"), "choices": [choice], "usage": _usage(asked, given)}


async def _chunks(asked: Asked, given: Answer, number: int, *, with_usage: bool) -> AsyncIterator[dict[str, Any]]:
    head = _head(asked, number, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}

    yield chunk({"role": "assistant", "content": ""})
    if given.tool_call is not None:
        yield chunk({"tool_calls": _tool_calls(given, number)})
    text = given.text or ""
    for start in range(0, len(text), CHUNK_CHARS):
        yield chunk({"content": text[start : start + CHUNK_CHARS]})
    yield chunk({}, "tool_calls" if given.tool_call else "stop")
    if with_usage:
        yield {**head, "choices": [], "usage": _usage(asked, given)}


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


async def _send(
    writer: asyncio.StreamWriter, status: int, body: dict[str, Any], extra: dict[str, str] | None = None
) -> None:
    document = msgspec.json.encode(body)
    headers = {"Content-Type": "application/json", "Content-Length": str(len(document)), **(extra or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\n{lines}\r\n".encode() + document)
    await writer.drain()


async def _stream(writer: asyncio.StreamWriter, chunks: AsyncIterator[dict[str, Any]]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    def event(data: bytes) -> bytes:
        line = b"data: %b\n\n" % data
        return b"%x\r\n%b\r\n" % (len(line), line)

    async for chunk in chunks:
        writer.write(event(msgspec.json.encode(chunk)))
        await writer.drain()
    writer.write(event(b"[DONE]") + b"0\r\n\r\n")
    await writer.drain()


async def _serve(host: str, port: int, delay_s: float) -> None:
    async with DemoProvider(host, port, delay_s) as provider:
        print(f"MILLRACE_OPENAI_BASE_URL={provider.base_url}", flush=True)  # noqa: T201  for whoever starts it
        await asyncio.Event().wait()


def main() -> int:
    """Run the provider until it is interrupted. Returns the exit status."""
    parser = argparse.ArgumentParser(description="A local OpenAI-compatible provider that is not a model.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9999)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that an answer takes")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments.host, arguments.port, arguments.delay))
    return 0


if __name__ == "__main__":
    sys.exit(main())
