"""`mcp:<name>`: the tools of an MCP server, each as `<name>_<tool>`.

A definition names a server of the operator's (MILLRACE_MCP_SERVERS), or gives the `url` of one. Programs are started
for those of the operator alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.mcp_servers import McpServer
from millrace_agent_runner.domain.secrets import scrub, scrub_value
from millrace_agent_runner.errors import StepFailure
from millrace_agent_runner.executors.agent.tools.mcp_http import HttpServer
from millrace_agent_runner.executors.agent.tools.mcp_session import (
    Asked,
    Offered,
    broken,
    call_tool,
    description_of,
    tools_of,
)
from millrace_agent_runner.executors.agent.tools.mcp_stdio import StdioServer
from millrace_agent_runner.executors.agent.tools.tool import (
    Described,
    Settings,
    config_invalid,
    model_name,
    read_settings,
)
from millrace_agent_runner.executors.http import HttpExecutor

MCP_PREFIX = "mcp:"
TIMEOUT_S = 60.0


class _Settings(Settings, frozen=True, kw_only=True):
    url: str | None = None
    headers: dict[str, str] | None = None
    only: tuple[str, ...] | None = None


class McpServers:
    """The servers that agents may use.

    Args:
        servers: those of the operator, by name.
        http: sends requests.
    """

    def __init__(self, servers: Mapping[str, McpServer], http: HttpExecutor) -> None:
        self._servers = servers
        self._http = http
        self._programs = {name: StdioServer(name, server) for name, server in servers.items() if server.command}

    async def close(self) -> None:
        """End the programs."""
        await asyncio.gather(*(program.close() for program in self._programs.values()))

    async def tools(self, name: str, config: dict[str, Any], attempt: Attempt) -> list[Described]:
        """Return the tools of the server that `mcp:<name>` means.

        Raises:
            StepFailure: there is no such server, or it does not say what it offers.
        """
        settings = read_settings(name, config, _Settings)
        server = name.removeprefix(MCP_PREFIX)
        asked, secrets = self._asked(name, server, settings, attempt)
        try:
            async with asyncio.timeout(settings.timeout_s or TIMEOUT_S):
                offered = await tools_of(server, asked)
        except TimeoutError as error:
            raise broken(server, "did not say in time what it offers") from error
        except StepFailure as failure:
            raise _without(failure, secrets) from failure
        if settings.only is not None:
            missing = set(settings.only) - {tool.name for tool in offered}
            if missing:
                raise config_invalid(name, f"the server does not offer {', '.join(sorted(missing))}")
            offered = [tool for tool in offered if tool.name in settings.only]
        return [_described(server, tool, asked, secrets, settings) for tool in offered]

    def _asked(self, name: str, server: str, settings: _Settings, attempt: Attempt) -> tuple[Asked, tuple[str, ...]]:
        if settings.url is not None:
            headers = settings.headers or {}
            return HttpServer(server, settings.url, headers, self._http, attempt, attempt.secrets), attempt.secrets
        if settings.headers is not None:
            raise config_invalid(name, "it has `headers` and no `url`")
        known = self._servers.get(server)
        if known is None:
            problem = (
                "the operator offers no such server: give its `url`, or have it added to MILLRACE_MCP_SERVERS in the "
                "environment of the agent runner"
            )
            raise config_invalid(name, problem)
        if known.command:
            return self._programs[server], known.secrets
        return HttpServer(server, known.url, known.headers, self._http, attempt, known.secrets), known.secrets


def _described(server: str, tool: Offered, asked: Asked, secrets: tuple[str, ...], settings: _Settings) -> Described:
    async def call(arguments: dict[str, Any], _: Any) -> Any:
        try:
            return scrub_value(await call_tool(asked, tool.name, arguments), secrets)
        except StepFailure as failure:
            raise _without(failure, secrets) from failure

    return Described(
        name=model_name(f"{server}_{tool.name}"),
        description=description_of(tool),
        schema=tool.schema,
        call=call,
        settings=settings,
        is_idempotent=False,
        is_checked=False,
        timeout_s=TIMEOUT_S,
    )


def _without(failure: StepFailure, secrets: tuple[str, ...]) -> StepFailure:
    return type(failure)(scrub(str(failure), secrets), category=failure.category, code=failure.code)
