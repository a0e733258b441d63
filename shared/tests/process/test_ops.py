"""The operations endpoint over real sockets, with clients that behave and clients that do not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from millrace_shared import ops
from millrace_shared.ops import HEAD_BYTES_MAX, Check, OpsServer, readiness


@pytest.fixture
def checks() -> dict[str, Check]:
    """What the server checks; tests put their own in."""
    return {}


@pytest.fixture
async def server(checks: dict[str, Check]) -> AsyncIterator[OpsServer]:
    server = OpsServer("127.0.0.1", 0, checks)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server: OpsServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
        yield client


async def raw(server: OpsServer, request: bytes) -> bytes:
    """Send bytes as they are; return all that is answered until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def passes() -> None:
    pass


def fails(error: Exception) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        raise error

    return check


async def test_a_process_that_answers_is_alive(client: httpx.AsyncClient, checks: dict[str, Check]):
    checks["nats"] = fails(OSError("away"))
    response = await client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "alive"})


async def test_it_is_ready_while_every_check_passes(client: httpx.AsyncClient, checks: dict[str, Check]):
    checks |= {"nats": passes, "postgres": passes}
    response = await client.get("/readyz?verbose")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "checks": {"nats": "ok", "postgres": "ok"}}

    checks["postgres"] = fails(OSError("connection refused"))
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {
        "status": "not ready",
        "checks": {"nats": "ok", "postgres": "OSError: connection refused"},
    }


async def test_a_check_that_hangs_is_given_up_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ops, "CHECK_TIMEOUT_S", 0.05)

    async def hangs() -> None:
        await asyncio.Event().wait()

    assert await readiness({"stuck": hangs, "fine": passes}) == (
        False,
        {"stuck": "no answer within 0.05 s", "fine": "ok"},
    )
    assert await readiness({}) == (True, {})


async def test_metrics_are_prometheus_text(client: httpx.AsyncClient):
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE python_info gauge" in response.text


async def test_other_paths_and_methods_are_refused(client: httpx.AsyncClient):
    missing = await client.get("/")
    assert (missing.status_code, missing.text) == (404, "there are /healthz, /readyz and /metrics\n")
    assert (await client.post("/healthz")).status_code == 405
    assert (await client.delete("/readyz")).status_code == 405


async def test_head_has_no_body(server: OpsServer):
    answer = await raw(server, b"HEAD /healthz HTTP/1.1\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 18" in head
    assert body == b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\n",
        b"GET /healthz HTTP/1.1\r\nX: " + b"x" * (4 * HEAD_BYTES_MAX),
        b"GET /healthz HTTP/1.1\r\nX: " + b"x" * (4 * HEAD_BYTES_MAX) + b"\r\n\r\n",
    ],
    ids=["nothing", "half a head", "an endless head", "a huge head"],
)
async def test_a_client_that_misbehaves_is_hung_up_on_and_the_next_is_served(
    server: OpsServer, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, request_bytes: bytes
):
    with monkeypatch.context() as patch:
        patch.setattr(ops, "READ_TIMEOUT_S", 0.05)
        assert await raw(server, request_bytes) == b""
    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("request_bytes", [b"\r\n\r\n", b"\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"GET  /healthz\r\n\r\n"])
async def test_a_head_that_is_no_http_is_refused(server: OpsServer, request_bytes: bytes):
    answer = await raw(server, request_bytes)
    assert answer.split(b" ")[1] in {b"404", b"405"}


async def test_a_silent_client_holds_up_nobody(server: OpsServer, client: httpx.AsyncClient):
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answers = await asyncio.gather(*(client.get("/healthz") for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    writer.close()


async def test_nothing_listens_after_stop():
    server = OpsServer("127.0.0.1", 0, {})
    await server.stop()
    await server.start()
    port = server.port
    await server.stop()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_port_that_is_taken_is_an_error_at_start(server: OpsServer):
    other = OpsServer("127.0.0.1", server.port, {})
    with pytest.raises(OSError, match="address already in use"):
        await other.start()
