"""Bodies that do not arrive: refused in time, with nothing done and the connection closed; and what is left alone."""

import asyncio
import time
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect

from millrace_api.routes import body_deadline

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "Authorization: Bearer test-bootstrap-key"
TIMEOUT_S = 0.5


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_deadline, "BODY_TIMEOUT_S", TIMEOUT_S)


async def answer_to(api: Any, head: list[str], body: bytes = b"", drip: bytes = b"") -> tuple[int, dict[str, str], Any]:
    """Send a request that never ends, `drip` again and again; return status, headers and JSON of the answer.

    Returns when the server hangs up.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", api.http.base_url.port)
    writer.write("\r\n".join([*head, "Host: x", KEY, "", ""]).encode() + body)

    async def go_on() -> None:
        while drip:
            writer.write(drip)
            await writer.drain()
            await asyncio.sleep(TIMEOUT_S / 10)

    dripping = asyncio.create_task(go_on())
    try:
        async with asyncio.timeout(60):
            said, _, document = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        writer.close()
    first, *lines = said.decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, msgspec.json.decode(document)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("path", ["/api/v1/executions", "/api/v1/workflows", "/api/v1/triggers"])
@pytest.mark.parametrize("drip", [b"", b" "], ids=["silent", "dripping"])
async def test_a_body_that_does_not_end_is_refused_and_the_connection_closed(api: Any, path: str, drip: bytes) -> None:
    head = [f"POST {path} HTTP/1.1", "Content-Type: application/json", "Content-Length: 5000"]
    status, headers, problem = await answer_to(api, head, b"{", drip)
    assert (status, problem["code"], problem["status"]) == (408, "request_timeout", 408)
    assert (headers["connection"], headers["content-type"]) == ("close", "application/problem+json")
    assert "within 0.5 s" in problem["detail"]


@pytest.mark.usefixtures("short")
async def test_chunks_do_not_prolong_it(api: Any) -> None:
    head = ["POST /api/v1/executions HTTP/1.1", "Transfer-Encoding: chunked"]
    status, _, problem = await answer_to(api, head, b"1\r\n{\r\n", b"1\r\n \r\n")
    assert (status, problem["code"]) == (408, "request_timeout")


async def test_answers_and_sockets_take_longer_than_that(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = await api.workflow()
    monkeypatch.setattr(body_deadline, "BODY_TIMEOUT_S", 0.0)  # what comes with the head is there at once, all the same
    body = msgspec.json.encode({"workflow": workflow})
    head = ["POST /api/v1/executions?wait=1 HTTP/1.1", "Connection: close", f"Content-Length: {len(body)}"]
    began = time.monotonic()
    status, _, accepted = await answer_to(api, head, body)
    assert (status, accepted["status"]) == (202, "pending")
    assert time.monotonic() - began >= 1.0
    headers = dict([KEY.split(": ")])
    async with connect(f"{api.ws}/ws/workflows/{workflow}", additional_headers=headers) as socket:
        async with asyncio.timeout(60):
            await (await socket.ping())
