import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.errors import RetryableFailure, StepFailure, TerminalFailure
from millrace_agent_runner.executors.http import BODY_BYTES_MAX, Call, HttpExecutor, retry_after_s

OK = "HTTP/1.1 200 OK\r\n"


class Server:
    """A server on this machine that answers by path and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(self, path: str, status: str = "200 OK", body: bytes = b"", **headers: str) -> None:
        lines = {"Content-Length": str(len(body)), "Connection": "close"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.answers[path] = f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        size = next((int(x.split(":")[1]) for x in head.split("\r\n") if x.lower().startswith("content-length")), 0)
        self.requests.append(head + (await reader.readexactly(size)).decode())
        path = head.split(" ", 2)[1]
        if path.startswith("/echo"):
            self.on(path, body=json.dumps({"request": self.requests[-1]}).encode(), Content_Type="application/json")
        if path in self.answers:
            writer.write(self.answers[path])
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()
        elif path == "/hang":
            await reader.read()
            writer.close()
        else:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    running = Server()
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def other() -> AsyncIterator[Server]:
    running = Server()
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def http() -> AsyncIterator[HttpExecutor]:
    executor = HttpExecutor(Allowed.parse(["127.0.0.0/8"]))
    yield executor
    await executor.close()


@pytest.fixture
def request_(http: Any, step_factory: Any, attempt_factory: Any) -> Any:
    async def perform(timeout_s: float = 10.0, secrets: tuple[str, ...] = (), **data: Any) -> Any:
        step = step_factory("http", None, {"method": "GET", **data}, timeout_s=timeout_s)
        return await http(attempt_factory(step, secrets))

    return perform


async def test_a_request_and_its_answer(request_: Any, server: Server) -> None:
    output = await request_(
        method="POST", url=f"{server.url}/echo?a=1", query={"q": "x y", "n": 2, "l": [1, True]}, json={"k": "ü"}
    )
    assert output["status"] == 200
    assert output["headers"]["content-type"] == "application/json"
    head, _, body = output["body"]["request"].partition("\r\n\r\n")
    assert head.startswith("POST /echo?a=1&q=x+y&n=2&l=1&l=true HTTP/1.1")
    assert f"Host: 127.0.0.1:{server.port}" in head
    assert json.loads(body) == {"k": "ü"}


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("application/json", b'{"a": [1]}', {"a": [1]}),
        ("application/problem+json; charset=utf-8", b"[]", []),
        ("application/json", b"{broken", "{broken"),
        ("text/plain; charset=latin-1", b"\xfc", "ü"),
        ("text/plain; charset=no-such", b"x", "x"),
        ("text/plain", b"\xff", "\ufffd"),
        ("text/plain", b"", None),
    ],
)
async def test_bodies(request_: Any, server: Server, kind: str, body: bytes, expected: Any) -> None:
    server.on("/x", body=body, Content_Type=kind)
    assert (await request_(url=f"{server.url}/x"))["body"] == expected


async def test_compressed_answers_are_read_and_bombs_are_not(request_: Any, server: Server) -> None:
    server.on("/small", body=gzip.compress(b"hello"), Content_Encoding="gzip")
    assert (await request_(url=f"{server.url}/small"))["body"] == "hello"
    server.on("/bomb", body=gzip.compress(b"0" * (BODY_BYTES_MAX * 20)), Content_Encoding="gzip")
    with pytest.raises(TerminalFailure, match="more than 8 MiB") as caught:
        await request_(url=f"{server.url}/bomb")
    assert caught.value.category == "value_too_large"
    server.on("/br", body=b"x", Content_Encoding="br")
    with pytest.raises(TerminalFailure, match='encoding "br"'):
        await request_(url=f"{server.url}/br")


async def test_an_answer_without_an_end_is_cut_off(request_: Any, server: Server) -> None:
    server.on("/large", body=b"0" * (BODY_BYTES_MAX + 1))
    with pytest.raises(TerminalFailure, match="more than 8 MiB"):
        await request_(url=f"{server.url}/large")


@pytest.mark.parametrize(
    ("status", "category", "kind"),
    [
        ("404 Not Found", "client_error", TerminalFailure),
        ("401 Unauthorized", "client_error", TerminalFailure),
        ("304 Not Modified", "client_error", TerminalFailure),
        ("408 Request Timeout", "timeout", RetryableFailure),
        ("500 Oops", "server_error", RetryableFailure),
        ("503 Busy", "server_error", RetryableFailure),
        ("429 Slow down", "rate_limit", RetryableFailure),
    ],
)
async def test_what_is_not_2xx_is_an_error(
    request_: Any, server: Server, status: str, category: str, kind: type[StepFailure]
) -> None:
    body = b"" if status.startswith("304") else b"because"
    server.on("/x", status, body, Retry_After="7")
    with pytest.raises(kind) as caught:
        await request_(url=f"{server.url}/x")
    assert caught.value.category == category
    assert caught.value.code == f"http_{status[:3]}"
    assert caught.value.retry_after_s == 7
    assert body.decode() in str(caught.value)


async def test_connections_that_fail_may_be_retried(request_: Any, server: Server) -> None:
    with pytest.raises(RetryableFailure) as caught:
        await request_(url=f"{server.url}/closes")
    assert caught.value.category == "connection"
    with pytest.raises(RetryableFailure) as caught:
        await request_(url="http://127.0.0.1:1/")
    assert caught.value.category == "connection"
    with pytest.raises(RetryableFailure) as caught:
        await request_(url="http://no-such-host.invalid/")
    assert caught.value.category == "connection"
    with pytest.raises(RetryableFailure) as caught:
        await request_(url=f"{server.url}/hang", timeout_s=0.2)
    assert caught.value.category == "timeout"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/x",
        "http://localhost:{port}/x",
        "http://127.1:{port}/x",
        "http://0x7f000001:{port}/x",
        "http://2130706433:{port}/x",
        "http://[::ffff:127.0.0.1]:{port}/x",
        "http://0.0.0.0:{port}/x",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
async def test_the_guard_refuses_addresses_inside(
    server: Server, step_factory: Any, attempt_factory: Any, url: str
) -> None:
    server.on("/x")
    guarded = HttpExecutor(Allowed())
    with pytest.raises(StepFailure) as caught:
        await guarded(attempt_factory(step_factory("http", None, {"url": url.format(port=server.port)})))
    assert caught.value.code in {"address_refused", "name_unknown"}
    assert server.requests == []
    await guarded.close()


async def test_a_redirect_passes_the_guard_again(server: Server, step_factory: Any, attempt_factory: Any) -> None:
    server.on("/x", "302 Found", Location="http://127.0.0.2:80/secret")
    guarded = HttpExecutor(Allowed.parse(["127.0.0.1/32"]))
    with pytest.raises(TerminalFailure) as caught:
        await guarded(attempt_factory(step_factory("http", None, {"url": f"{server.url}/x"})))
    assert caught.value.code == "address_refused"
    await guarded.close()


async def test_redirects_are_followed_as_browsers_do(request_: Any, server: Server) -> None:
    server.on("/see-other", "303 See Other", Location="/echo")
    server.on("/temporary", "307 Temporary Redirect", Location="/echo")
    assert "GET /echo" in (await request_(method="POST", url=f"{server.url}/see-other", body="b"))["body"]["request"]
    kept = (await request_(method="POST", url=f"{server.url}/temporary", body="kept"))["body"]["request"]
    assert kept.startswith("POST /echo")
    assert kept.endswith("kept")


async def test_redirects_end(request_: Any, server: Server) -> None:
    server.on("/loop", "302 Found", Location="/loop")
    with pytest.raises(TerminalFailure, match="more than 5 times"):
        await request_(url=f"{server.url}/loop")
    assert len(server.requests) == 6
    server.on("/file", "302 Found", Location="file:///etc/passwd")
    with pytest.raises(TerminalFailure, match="not an http or https address"):
        await request_(url=f"{server.url}/file")


async def test_secrets_stay_with_their_origin(request_: Any, server: Server, other: Server) -> None:
    headers = {"Authorization": "Bearer s3cret-value", "X-Key": "s3cret-value", "X-Plain": "fine"}
    server.on("/away", "307 Temporary Redirect", Location=f"{other.url}/echo")
    server.on("/near", "307 Temporary Redirect", Location="/echo")
    away = await request_(url=f"{server.url}/away", headers=headers, secrets=("s3cret-value",))
    assert "s3cret-value" not in away["body"]["request"]
    assert "fine" in away["body"]["request"]
    near = await request_(url=f"{server.url}/near", headers=headers, secrets=("s3cret-value",))
    assert "s3cret-value" in near["body"]["request"]
    with pytest.raises(TerminalFailure) as caught:
        await request_(method="POST", url=f"{server.url}/away", body="s3cret-value", secrets=("s3cret-value",))
    assert caught.value.code == "redirect_refused"
    assert "s3cret-value" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        {"url": "ftp://example.com/"},
        {"url": "/relative"},
        {"url": "http://user:pass@example.com/"},
        {"url": "http://exa mple.com/"},
        {"url": "http://x/", "headers": {"Host": "y"}},
        {"url": "http://x/", "headers": {"Content-Length": "3"}},
        {"url": "http://127.0.0.1/", "headers": {"X": "a\r\nY: b"}},
        {"url": "http://x/", "surprise": 1},
        {"url": 3},
        {},
    ],
)
async def test_requests_that_cannot_be_sent(request_: Any, data: Any) -> None:
    with pytest.raises(TerminalFailure) as caught:
        await request_(**data)
    assert caught.value.category == "input_invalid"


async def test_hosts_narrow_what_may_be_asked(http: HttpExecutor, server: Server) -> None:
    server.on("/x", body=b"ok")
    call = Call(url=f"{server.url}/x")
    assert (await http.send(call, time.time() + 30, hosts=frozenset({"127.0.0.1"}))).status == 200
    with pytest.raises(TerminalFailure) as caught:
        await http.send(call, time.time() + 30, hosts=frozenset({"example.com"}))
    assert caught.value.code == "host_refused"


async def test_no_proxy_is_taken_from_the_environment(
    request_: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.on("/x", body=b"direct")
    assert (await request_(url=f"{server.url}/x"))["body"] == "direct"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Thu, 15 Jan 2026 10:00:30 GMT", 30.0),
        ("Thu, 15 Jan 2026 09:00:00 GMT", 0.0),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("1e99", 86_400.0),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(value: str, expected: float | None) -> None:
    assert retry_after_s({"retry-after": value}, datetime(2026, 1, 15, 10, tzinfo=UTC)) == expected
