"""MCP servers, real ones: a program of the operator's, and one over HTTP."""

import asyncio
import importlib.util
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.domain.mcp_servers import McpServer, read_mcp_servers
from millrace_agent_runner.errors import StepFailure, TerminalFailure
from millrace_agent_runner.executors.agent.executor import AgentExecutor
from millrace_agent_runner.executors.agent.tools import mcp_stdio
from millrace_agent_runner.executors.agent.tools.mcp import McpServers
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads
from millrace_agent_runner.settings import RunnerSettings
from millrace_shared.errors import SettingsInvalid
from millrace_shared.testing.providers import FakeProviders, calls, reply


class Unheard:
    def llm_call(self, fact: Any) -> None: ...
    def token_delta(self, fact: Any) -> None: ...
    def budget_breached(self, fact: Any) -> None: ...


PROBE = Path(__file__).with_name("mcp_server.py")
KEY = "the-key-of-the-server"


@pytest.fixture
async def http() -> AsyncIterator[HttpExecutor]:
    executor = HttpExecutor(Allowed.parse(["127.0.0.1/32"]))
    yield executor
    await executor.close()


@pytest.fixture
async def servers(http: HttpExecutor) -> AsyncIterator[McpServers]:
    known = {
        "probe": McpServer(command=sys.executable, args=(str(PROBE),), env={"PROBE_KEY": KEY}),
        "nothing": McpServer(command="/no/such/program"),
        "silent": McpServer(command="sleep", args=("1000",)),
        "ends": McpServer(command="true"),
        "endless": McpServer(command=sys.executable, args=("-c", "while True: print('x' * 10**6, end='')")),
    }
    running = McpServers(known, http)
    yield running
    await running.close()


@pytest.fixture
async def probe_url() -> AsyncIterator[str]:
    spec = importlib.util.spec_from_file_location("probe_over_http", PROBE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        served = uvicorn.Server(uvicorn.Config(module.server.streamable_http_app(), log_level="critical"))
        task = asyncio.create_task(served.serve(sockets=[listening]))
        async with asyncio.timeout(60):
            while not served.started:  # noqa: ASYNC110  uvicorn sets no event
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        served.should_exit = True
        await task


@pytest.fixture
def attempt(step_factory: Any, attempt_factory: Any) -> Any:
    return attempt_factory(step_factory("agent"))


@pytest.fixture
def call(servers: McpServers, attempt: Any) -> Any:
    async def perform(tool: str, /, *, name: str = "mcp:probe", config: Any = None, **arguments: Any) -> Any:
        found = {made.name: made for made in await servers.tools(name, config or {}, attempt)}
        return await found[tool].call(arguments, None)  # type: ignore[arg-type]

    return perform


async def test_a_program_is_started_and_offers_its_tools(servers: McpServers, call: Any, attempt: Any) -> None:
    made = {tool.name: tool for tool in await servers.tools("mcp:probe", {}, attempt)}
    assert made["probe_add"].description == "Add two numbers."
    assert set(made["probe_add"].schema["properties"]) == {"left", "right"}
    assert not any(tool.is_idempotent for tool in made.values())
    assert await call("probe_add", left=2, right=3) == {"result": 5}
    assert await call("probe_process") == await call("probe_process")  # it goes on running
    assert len(await call("probe_long", size=1_000_000)) == 1_000_000
    assert [tool.name for tool in await servers.tools("mcp:probe", {"only": ["add"]}, attempt)] == ["probe_add"]


async def test_a_program_gets_its_own_environment_and_no_keys(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-runner")
    seen = await call("probe_environment")
    assert "PROBE_KEY" in seen
    assert "sk-of-the-runner" not in seen
    assert KEY not in seen  # nor does a model see what it was given


async def test_what_a_tool_gets_wrong_is_told(call: Any) -> None:
    with pytest.raises(TerminalFailure, match="no luck") as caught:
        await call("probe_fail", word="luck")
    assert (caught.value.category, caught.value.code) == ("tool_error", "mcp_tool_failed")
    with pytest.raises(StepFailure):
        await call("probe_add", left="many", right=1)


async def test_a_program_that_dies_is_a_tool_error_and_is_started_again(call: Any) -> None:
    before = await call("probe_process")
    with pytest.raises(StepFailure) as caught:
        await call("probe_die")
    assert (caught.value.category, caught.value.code) == ("tool_error", "mcp_server_failed")
    assert await call("probe_process") != before


async def test_a_program_ends_with_the_runner(servers: McpServers, call: Any) -> None:
    process = int(await call("probe_process"))
    await servers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


async def test_a_call_that_hangs_can_be_given_up(servers: McpServers, call: Any, attempt: Any) -> None:
    hang = next(tool for tool in await servers.tools("mcp:probe", {"only": ["hang"]}, attempt))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await hang.call({}, None)  # type: ignore[arg-type]
    assert await call("probe_add", left=1, right=1) == {"result": 2}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "cannot be started"),
        ("ends", "has ended"),
        ("endless", "a line of more than"),
        ("silent", "was not ready"),
    ],
)
async def test_a_program_that_is_no_server_is_a_tool_error(
    servers: McpServers, attempt: Any, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    if name == "silent":
        monkeypatch.setattr(mcp_stdio, "START_TIMEOUT_S", 0.2)
    with pytest.raises(StepFailure, match=words) as caught:
        await servers.tools(f"mcp:{name}", {}, attempt)
    assert (caught.value.category, caught.value.retryable) == ("tool_error", True)


@pytest.mark.parametrize("server", ["program", "http"])
async def test_an_agent_goes_on_when_a_tool_of_a_server_fails(
    providers: FakeProviders,
    journals: Any,
    http: HttpExecutor,
    step_factory: Any,
    attempt_factory: Any,
    probe_url: str,
    server: str,
) -> None:
    program = McpServer(command=sys.executable, args=(str(PROBE),))
    python = PythonExecutor(Functions(()), Threads(1))
    known = {"probe": program if server == "program" else McpServer(url=probe_url)}
    agents = AgentExecutor(Unheard(), journals, http, python, {}, providers.openai_url, mcp_servers=known)
    turn = [calls("probe_fail", word="luck"), calls("probe_long", size=100_000), calls("probe_add", left=2, right=3)]
    providers.script = [reply(None, *turn), reply("done")]
    tools = [{"name": "mcp:probe", "config": {"output_bytes_max": 1_000}}]
    spec = {"agent": {"model": "openai:m", "tools": tools}}
    assert await agents(attempt_factory(step_factory("agent", spec, {"prompt": "Go."}))) == "done"
    failed, cut, added = [heard["content"] for heard in providers.calls[-1].messages if heard["role"] == "tool"]
    assert "no luck" in failed
    assert "99000 of 100000 bytes were left out" in cut
    assert added == '{"result":5}'
    await agents.close()


async def test_a_server_over_http_offers_its_tools(call: Any, probe_url: str) -> None:
    config = {"url": probe_url, "headers": {"Authorization": f"Bearer {KEY}"}}
    assert await call("far_add", name="mcp:far", config=config, left=2, right=3) == {"result": 5}
    with pytest.raises(TerminalFailure, match="no luck"):
        await call("far_fail", name="mcp:far", config=config, word="luck")


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("mcp:unknown", {}, "MILLRACE_MCP_SERVERS"),
        ("mcp:probe", {"command": "rm"}, "command"),
        ("mcp:probe", {"headers": {"a": "b"}}, "no `url`"),
        ("mcp:probe", {"only": ["sudo"]}, "does not offer sudo"),
        ("mcp:x", {"url": "http://169.254.169.254/mcp"}, "not on the public internet"),
        ("mcp:x", {"url": "file:///etc/passwd"}, "not an absolute http"),
        ("mcp:x", {"url": "http://127.0.0.1:1/mcp"}, "failed on the way"),
    ],
)
async def test_what_cannot_be_used_is_said(
    servers: McpServers, attempt: Any, name: str, config: Any, words: str
) -> None:
    with pytest.raises(StepFailure, match=words):
        await servers.tools(name, config, attempt)


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"A": {"command": "x"}}', '{"a": {}}', '{"a": {"command": "x", "url": "y"}}', '{"a": {"shell": 1}}'],
)
def test_a_setting_that_is_wrong_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"MCP server"):
        read_mcp_servers(text)


def test_a_setting_names_servers() -> None:
    assert read_mcp_servers("") == {}
    read = read_mcp_servers('{"docs": {"command": "docs", "args": ["-v"]}, "far": {"url": "https://x/mcp"}}')
    assert (read["docs"].args, read["far"].url) == (("-v",), "https://x/mcp")


def test_a_wrong_setting_is_refused_at_start_without_its_values() -> None:
    text = f'{{"docs": {{"command": "docs", "env": {{"KEY": "{KEY}"}}, "url": "both"}}}}'
    with pytest.raises(SettingsInvalid, match="MCP server") as caught:
        RunnerSettings.load({"MILLRACE_MCP_SERVERS": text})
    assert KEY not in str(caught.value)
