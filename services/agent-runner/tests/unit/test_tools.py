"""What a model's calls of tools come to, through a whole run of an agent."""

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.errors import Deferred, TerminalFailure
from millrace_agent_runner.executors import network
from millrace_agent_runner.executors.agent.executor import AgentExecutor
from millrace_agent_runner.executors.agent.tools import Tools
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads
from millrace_shared.messages import Answer
from millrace_shared.testing.providers import FakeProviders, calls, reply
from millrace_shared.values import Payload

KEY = "fc-the-key-of-firecrawl"
TESTING = "millrace_agent_runner.functions.testing"


class Unheard:
    def llm_call(self, fact: Any) -> None: ...
    def token_delta(self, fact: Any) -> None: ...
    def budget_breached(self, fact: Any) -> None: ...


@pytest.fixture
def environment() -> dict[str, str]:
    return {}


@pytest.fixture
async def executor(
    providers: FakeProviders, journals: Any, environment: dict[str, str]
) -> AsyncIterator[AgentExecutor]:
    http = HttpExecutor(Allowed.parse(["127.0.0.1/32"]))
    python = PythonExecutor(Functions(()), Threads(2))
    agents = AgentExecutor(Unheard(), journals, http, python, environment, providers.openai_url)
    yield agents
    await agents.close()
    await http.close()


class Told:
    """Runs an agent whose model calls one tool and then answers; says what the model was told of the call."""

    def __init__(self, executor: AgentExecutor, providers: FakeProviders, step_of: Any, attempt_of: Any) -> None:
        self.executor, self.providers, self.step_of, self.attempt_of = executor, providers, step_of, attempt_of

    async def __call__(self, tool: Any, name: str, **arguments: Any) -> Any:
        self.providers.script = [reply(None, calls(name, **arguments)), reply("done")]
        spec = {"agent": {"model": "openai:m", "tools": [tool], "streaming_enabled": False}}
        assert await self.executor(self.attempt_of(self.step_of("agent", spec, {"prompt": "Go."}))) == "done"
        [told] = [message for message in self.asked() if message["role"] == "tool"]
        return told["content"]

    def asked(self) -> list[dict[str, Any]]:
        return self.providers.calls[-1].messages


@pytest.fixture
def told(executor: AgentExecutor, providers: FakeProviders, step_factory: Any, attempt_factory: Any) -> Told:
    return Told(executor, providers, step_factory, attempt_factory)


async def test_a_long_result_is_cut_before_the_model_sees_it(told: Told) -> None:
    tool = {"name": "payload", "config": {"call": f"{TESTING}:payload", "output_bytes_max": 1000}}
    seen = await told(tool, "payload", size_bytes=1_000_000)
    assert "999000 of 1000000 bytes were left out" in seen
    assert len(seen) < 1_200


async def test_a_tool_that_hangs_is_stopped_and_the_model_is_told(told: Told) -> None:
    tool = {"name": "sleep", "config": {"call": f"{TESTING}:sleep", "timeout_s": 0.05}}
    assert "did not end within 0.05 s" in await told(tool, "sleep", seconds=3_000)


async def test_a_request_is_sent_as_the_model_says(told: Told, providers: FakeProviders) -> None:
    body = {"model": "other", "messages": [{"role": "user", "content": "by a tool"}]}
    url = f"{providers.openai_url}/chat/completions"
    seen = await told({"name": "http.request"}, "http_request", url=url, method="POST", json=body)
    assert json.loads(seen)["status"] == 200
    assert providers.calls[1].model == "other"


@pytest.mark.parametrize(
    ("config", "arguments", "words"),
    [
        ({}, {"method": "GET"}, "'url' is a required property"),
        ({}, {"url": 3, "method": "GET"}, "not of type 'string'"),
        ({"methods": ["GET"]}, {"url": "http://127.0.0.1:1/", "method": "DELETE"}, "'DELETE' is not one of"),
        ({"hosts": ["example.com"]}, {"url": "http://127.0.0.1:1/", "method": "GET"}, "not one of the hosts"),
        ({}, {"url": "http://169.254.169.254/latest", "method": "GET"}, "not on the public internet"),
        ({}, {"url": "http://[::ffff:169.254.169.254]/", "method": "GET"}, "not on the public internet"),
        ({}, {"url": "file:///etc/passwd", "method": "GET"}, "not an absolute http"),
    ],
)
async def test_a_request_that_may_not_be_sent_is_told(told: Told, config: Any, arguments: Any, words: str) -> None:
    assert words in await told({"name": "http.request", "config": config}, "http_request", **arguments)


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.53", "10.0.0.1", "::1"])
@pytest.mark.parametrize("tool", ["http.get", "http.request", "web.scrape"])
async def test_a_name_that_leads_inside_is_refused(
    told: Told, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, address: str, tool: str
) -> None:
    async def resolve(*_: Any) -> list[Any]:
        return [ipaddress.ip_address(address)]

    environment["FIRECRAWL_API_KEY"] = KEY
    arguments = {"url": "http://innocent.example/"} | ({"method": "GET"} if tool == "http.request" else {})
    with monkeypatch.context() as patch:
        real = network._resolve

        async def innocent(host: str, port: int) -> list[Any]:
            return await (resolve() if host == "innocent.example" else real(host, port))

        patch.setattr(network, "_resolve", innocent)
        seen = await told({"name": tool}, tool.replace(".", "_"), **arguments)
    assert f"is not on the public internet ({address})" in seen


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ({"name": "http.get", "config": {"headers": {"a": "b"}}}, "say which hosts"),
        ({"name": "http.get", "config": {"unknown": 1}}, "unknown"),
        ({"name": "http.request", "config": {"methods": []}}, "names none"),
        ({"name": "http.request", "config": {"methods": ["TRACE"]}}, "TRACE"),
        ({"name": "fib", "config": {"output_bytes_max": 1}}, "output_bytes_max"),
        ({"name": "web.search"}, "FIRECRAWL_API_KEY"),
        ({"name": "human.ask", "config": {"timeout_s": -1}}, "timeout_s"),
    ],
)
async def test_a_tool_that_is_set_up_wrong_ends_the_attempt(
    told: Told, providers: FakeProviders, tool: Any, words: str
) -> None:
    with pytest.raises(TerminalFailure, match=words) as caught:
        await told(tool, "x")
    assert caught.value.code == "tool_config_invalid"
    assert providers.calls == []


async def test_two_tools_of_one_name_are_refused(told: Told, step_factory: Any, attempt_factory: Any) -> None:
    spec = {"agent": {"model": "openai:m", "tools": ["fib", {"name": "f.ib", "config": {"call": "fib"}}, "fib"]}}
    with pytest.raises(TerminalFailure, match='another tool is called "fib"'):
        await told.executor(attempt_factory(step_factory("agent", spec, {"prompt": "x"})))


class Firecrawl:
    """Speaks Firecrawl's API, as far as the tools do."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answer: tuple[int, Any] = (200, {"success": True, "data": {}})
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.asked.append((head.split(" ")[1], headers.get("authorization", ""), body))
        status, answer = self.answer
        document = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        start = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{start}Content-Length: {len(document)}\r\n\r\n".encode() + document)
        await writer.drain()
        writer.close()


@pytest.fixture
async def firecrawl(environment: dict[str, str]) -> AsyncIterator[Firecrawl]:
    fake = Firecrawl()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    async with server:
        environment |= {
            "FIRECRAWL_BASE_URL": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/",
            "FIRECRAWL_API_KEY": KEY,
        }
        yield fake


async def test_a_page_is_read_as_markdown(told: Told, firecrawl: Firecrawl) -> None:
    metadata = {"title": "Title", "sourceURL": "http://8.8.8.8/page", "statusCode": 200}
    firecrawl.answer = (200, {"success": True, "data": {"markdown": "# Text", "metadata": metadata}})
    seen = json.loads(await told("web.scrape", "web_scrape", url="http://8.8.8.8/page"))
    assert seen == {"url": "http://8.8.8.8/page", "title": "Title", "markdown": "# Text"}
    [(path, authorization, body)] = firecrawl.asked
    assert (path, authorization) == ("/v2/scrape", f"bearer {KEY}")
    assert body == {"url": "http://8.8.8.8/page", "formats": ["markdown"], "onlyMainContent": True}


async def test_the_web_is_searched(told: Told, firecrawl: Firecrawl) -> None:
    found = {"url": "http://a.example", "title": "A", "description": "d", "position": 1}
    firecrawl.answer = (200, {"success": True, "data": {"web": [found, None]}})
    seen = json.loads(await told({"name": "web.search", "config": {"results_max": 3}}, "web_search", query="millrace"))
    assert seen[0] == {"url": "http://a.example", "title": "A", "description": "d"}
    [(path, _, body)] = firecrawl.asked
    assert (path, body) == ("/v2/search", {"query": "millrace", "limit": 3})


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {"success": False, "error": f"bad token {KEY}"}), "Firecrawl answered 401: bad token [secret]"),
        ((429, {"success": False, "error": "slow down"}), "Firecrawl answered 429: slow down"),
        ((200, b"<html>"), "Firecrawl answered 200: it gave no data"),
        ((200, {"success": True, "data": []}), "it gave no data"),
        ((200, b"x" * (9 * 1024 * 1024)), "more than 8 MiB"),
    ],
)
async def test_what_firecrawl_refuses_is_told_without_its_key(
    told: Told, firecrawl: Firecrawl, answer: Any, words: str
) -> None:
    firecrawl.answer = answer
    seen = await told("web.search", "web_search", query="x")
    assert words in seen
    assert KEY not in seen


@pytest.mark.parametrize("data", [None, {"colour": "red"}])
async def test_people_are_asked_and_the_conversation_goes_on_with_their_answer(
    told: Told, providers: FakeProviders, step_factory: Any, attempt_factory: Any, data: Any
) -> None:
    question = {"question": "May I?"}
    providers.script = [reply(None, calls("fib", n=7), calls("human_ask", **question)), reply("done")]
    form = {"type": "object", "properties": {"colour": {"type": "string"}}}
    tools = ["fib", {"name": "human.ask", "config": {"form": form, "timeout_s": 100_000}}]
    spec = {"agent": {"model": "openai:m", "tools": tools, "streaming_enabled": False}}
    step = step_factory("agent", spec, {"prompt": "Go."})
    with pytest.raises(Deferred) as caught:
        await told.executor(attempt_factory(step))
    asked = caught.value.deferral
    assert (asked.reason, asked.detail) == ("approval", "May I?")
    assert asked.question.data == {"message": "May I?", "form": form}
    assert len(providers.calls) == 1

    answer = Answer(asked.ask, approved=True, at=1.0, by="ann", note="gladly", data=Payload(data=data))
    again = msgspec.structs.replace(step, attempt=2, continues=True, answers=(answer,))
    resumed = attempt_factory(again)
    resumed.resumes = True
    assert await told.executor(resumed) == "done"
    assert len(providers.calls) == 2  # what was answered before was not asked again
    heard = [json.loads(message["content"]) for message in told.asked() if message["role"] == "tool"]
    assert heard == [13, {"answered": True, "approved": True, "note": "gladly", "data": data}]


@pytest.mark.parametrize(("config", "said"), [({}, "tell"), ({"on_unknown": "fail"}, "fail")])
async def test_a_tool_says_what_a_call_leads_to_whose_end_nobody_knows(
    config: dict[str, Any], said: str, step_factory: Any, attempt_factory: Any
) -> None:
    tools = Tools(HttpExecutor(Allowed.parse([])), PythonExecutor(Functions(()), Threads(1)), {}, {})
    config = {"call": f"{TESTING}:sleep", **config}
    [tool] = await tools.build(("sleep",), {"sleep": config}, attempt_factory(step_factory()))
    assert tool.metadata == {"idempotent": False, "on_unknown": said}
