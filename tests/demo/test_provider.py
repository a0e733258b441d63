import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from millrace.demo.provider import DemoProvider

SCHEMA = {"type": "object", "required": ["score"], "properties": {"score": {"type": "integer", "minimum": 3}}}
TOOL = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "required": ["q"]}}}


@pytest.fixture
async def provider() -> AsyncIterator[DemoProvider]:
    async with DemoProvider() as running:
        yield running


@pytest.fixture
async def client(provider: DemoProvider) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=provider.base_url, trust_env=False) as connected:
        yield connected


def asked(text: str = "Hi", model: str = "mock-1", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


async def test_the_same_request_has_the_same_answer(client: httpx.AsyncClient) -> None:
    first, again, other = [
        (await client.post("/chat/completions", json=asked(text))).json() for text in ("Hi", "Hi", "Hello")
    ]
    message = first["choices"][0]["message"]
    assert message == again["choices"][0]["message"]
    assert message != other["choices"][0]["message"]
    assert "demo provider" in message["content"]
    assert first["usage"]["total_tokens"] == first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]


async def test_a_stream_adds_up_to_the_answer(client: httpx.AsyncClient) -> None:
    whole = (await client.post("/chat/completions", json=asked())).json()["choices"][0]["message"]["content"]
    request = asked(stream=True, stream_options={"include_usage": True})
    async with client.stream("POST", "/chat/completions", json=request) as response:
        lines = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [httpx.Response(200, text=line).json() for line in lines[:-1]]
    pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(pieces) == whole
    assert len([piece for piece in pieces if piece]) > 1
    assert chunks[-1]["usage"]["completion_tokens"] > 0


async def test_a_tool_is_called_once(client: httpx.AsyncClient) -> None:
    first = (await client.post("/chat/completions", json=asked(tools=[TOOL]))).json()["choices"][0]
    assert first["finish_reason"] == "tool_calls"
    assert first["message"]["tool_calls"][0]["function"]["name"] == "lookup"
    request = asked(tools=[TOOL])
    request["messages"] += [first["message"], {"role": "tool", "tool_call_id": "x", "content": "found it"}]
    second = (await client.post("/chat/completions", json=request)).json()["choices"][0]
    assert "found it" in second["message"]["content"]


async def test_structured_answers_match_the_schema(client: httpx.AsyncClient) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    answer = (await client.post("/chat/completions", json=asked(response_format=form))).json()
    assert answer["choices"][0]["message"]["content"] == '{"score":3}'


@pytest.mark.parametrize(
    ("model", "status"),
    [("mock-401", 401), ("mock-413", 413), ("mock-429", 429), ("mock-500", 500), ("mock-context", 400)],
)
async def test_errors_on_demand(client: httpx.AsyncClient, model: str, status: int) -> None:
    response = await client.post("/chat/completions", json=asked(model=model))
    assert response.status_code == status
    assert response.json()["error"]["message"]
    assert response.headers.get("retry-after") == ("2" if status == 429 else None)


async def test_flaky_recovers_and_slow_is_slow(client: httpx.AsyncClient, provider: DemoProvider) -> None:
    statuses = [(await client.post("/chat/completions", json=asked(model="mock-flaky-2"))).status_code for _ in "123"]
    assert statuses == [500, 500, 200]
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/chat/completions", json=asked(model="mock-slow"), timeout=httpx.Timeout(30, read=0.1))
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/chat/completions", json=asked(model="mock-hangup"))
    assert (await client.get(f"http://127.0.0.1:{provider.port}/calls")).json() == {
        "total": 5,
        "by_model": {"mock-flaky-2": 3, "mock-slow": 1, "mock-hangup": 1},
    }


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model": "x", "messages": 3}', b"\xff"])
async def test_what_is_no_request_is_400(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.post("/chat/completions", content=body)).status_code == 400


async def test_many_at_once(client: httpx.AsyncClient, provider: DemoProvider) -> None:
    await asyncio.gather(*(client.post("/chat/completions", json=asked(str(n))) for n in range(50)))
    assert provider.calls["mock-1"] == 50
