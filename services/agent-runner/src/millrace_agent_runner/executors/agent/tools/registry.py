"""Which tool has which name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_ai import Tool

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.mcp_servers import McpServer
from millrace_agent_runner.executors.agent.tools import functions, http, human, mcp, sandbox, web
from millrace_agent_runner.executors.agent.tools.tool import Described, config_invalid, tool_of
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import PythonExecutor

_Maker = Callable[[dict[str, Any], Attempt], Described]


class Tools:
    """Makes the tools of attempts.

    Args:
        http_: sends requests.
        python: resolves and calls functions.
        environment: says where Firecrawl is, and holds its key.
        mcp_servers: those of the operator, by name.
    """

    def __init__(
        self,
        http_: HttpExecutor,
        python: PythonExecutor,
        environment: Mapping[str, str],
        mcp_servers: Mapping[str, McpServer],
    ) -> None:
        self._python = python
        self._sandbox = sandbox.Sandbox()
        self._mcp = mcp.McpServers(mcp_servers, http_)
        self._makers: Mapping[str, _Maker] = {
            http.HTTP_GET: lambda config, attempt: http.get(config, attempt, http_),
            http.HTTP_REQUEST: lambda config, attempt: http.request(config, attempt, http_),
            web.WEB_SCRAPE: lambda config, attempt: web.scrape(config, attempt, http_, environment),
            web.WEB_SEARCH: lambda config, attempt: web.search(config, attempt, http_, environment),
            human.HUMAN_ASK: human.ask,
            sandbox.PYTHON_SANDBOX: lambda config, _: sandbox.sandbox(config, self._sandbox),
        }

    async def close(self) -> None:
        """End what tools started."""
        await self._mcp.close()
        await self._sandbox.close()

    async def build(self, names: tuple[str, ...], configs: Mapping[str, Any], attempt: Attempt) -> list[Tool[None]]:
        """Return the tools called `names`.

        Raises:
            StepFailure: one of them cannot be used.
        """
        made: dict[str, Tool[None]] = {}
        for name in names:
            for described in await self._described(name, configs.get(name) or {}, attempt):
                if described.name in made:
                    raise config_invalid(name, f'another tool is called "{described.name}" by models, too')
                made[described.name] = tool_of(described, attempt)
        return list(made.values())

    async def _described(self, name: str, config: dict[str, Any], attempt: Attempt) -> list[Described]:
        if name.startswith(mcp.MCP_PREFIX):
            return await self._mcp.tools(name, config, attempt)
        make = self._makers.get(name)
        return [functions.function(name, config, self._python) if make is None else make(config, attempt)]
