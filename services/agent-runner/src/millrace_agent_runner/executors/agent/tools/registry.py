"""Which tool has which name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_ai import Tool

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.executors.agent.tools import functions, http, human, web
from millrace_agent_runner.executors.agent.tools.tool import Described, config_invalid, tool_of
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import PythonExecutor


class Tools:
    """Makes the tools of attempts.

    Args:
        http_: sends requests.
        python: resolves and calls functions.
        environment: says where Firecrawl is, and holds its key.
    """

    def __init__(self, http_: HttpExecutor, python: PythonExecutor, environment: Mapping[str, str]) -> None:
        self._http = http_
        self._python = python
        self._environment = environment

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
        if name == http.HTTP_GET:
            return [http.get(config, attempt, self._http)]
        if name == http.HTTP_REQUEST:
            return [http.request(config, attempt, self._http)]
        if name == web.WEB_SCRAPE:
            return [web.scrape(config, attempt, self._http, self._environment)]
        if name == web.WEB_SEARCH:
            return [web.search(config, attempt, self._http, self._environment)]
        if name == human.HUMAN_ASK:
            return [human.ask(config, attempt)]
        return [functions.function(name, config, self._python)]
