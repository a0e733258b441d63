"""The door to agent steps: imports the machinery with the first one, off the event loop."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.journal import Journals
from millrace_agent_runner.domain.mcp_servers import McpServer
from millrace_agent_runner.domain.prices import NONE, OwnPrices
from millrace_shared.messages import BudgetBreached, LlmCall, TokenDelta

if TYPE_CHECKING:
    from millrace_agent_runner.executors.agent.budgeted import Ledger
    from millrace_agent_runner.executors.agent.limited import Limits
    from millrace_agent_runner.executors.agent.run import AgentRuns
    from millrace_agent_runner.executors.http import HttpExecutor
    from millrace_agent_runner.executors.python import PythonExecutor


class CallFacts(Protocol):
    """Where calls to models are reported; `adapters.facts.Facts` is one."""

    def llm_call(self, fact: LlmCall) -> None:
        """A model was called."""

    def token_delta(self, fact: TokenDelta) -> None:
        """A piece of an answer has come."""

    def budget_breached(self, fact: BudgetBreached) -> None:
        """A call did not fit into a budget, for the first time."""


class AgentExecutor:
    """Performs `agent` steps.

    Args:
        facts: where calls to models are reported.
        journals: where conversations are recorded.
        http: for tools that send requests.
        python: for functions as tools.
        environment: holds the providers' keys, and says where Firecrawl is.
        openai_base_url: an OpenAI-compatible endpoint in place of OpenAI's.
        limits: rate limits of models; None: there are none.
        ledger: what is used of budgets; None: there are none.
        prices: those of the operator.
        mcp_servers: those of the operator, by name.
    """

    def __init__(
        self,
        facts: CallFacts,
        journals: Journals,
        http: HttpExecutor,
        python: PythonExecutor,
        environment: Mapping[str, str],
        openai_base_url: str | None,
        limits: Limits | None = None,
        ledger: Ledger | None = None,
        prices: OwnPrices = NONE,
        mcp_servers: Mapping[str, McpServer] = MappingProxyType({}),
    ) -> None:
        self._mcp_servers = mcp_servers
        self._facts = facts
        self._journals = journals
        self._http = http
        self._python = python
        self._environment = environment
        self._openai_base_url = openai_base_url
        self._limits = limits
        self._ledger = ledger
        self._prices = prices
        self._runs: AgentRuns | None = None
        self._opening = asyncio.Lock()

    async def __call__(self, attempt: Attempt) -> Any:
        """Run the agent and return its answer: text, or a value of the step's or the agent's JSON Schema.

        Raises:
            StepFailure: it came to no answer.
        """
        return await (self._runs or await self._open()).run(attempt)

    async def close(self) -> None:
        """Close the connections to providers, and end what tools started."""
        if self._runs is not None:
            await self._runs.close()

    async def _open(self) -> AgentRuns:
        async with self._opening:
            if self._runs is None:
                # A thread imports it: the other slots' heartbeats need the loop meanwhile.
                module = await asyncio.to_thread(importlib.import_module, "millrace_agent_runner.executors.agent.run")
                models = module.Models(self._environment, self._openai_base_url)
                layers = module.Layers(models, self._facts, self._limits, self._ledger, self._prices)
                tools = module.Tools(self._http, self._python, self._environment, self._mcp_servers)
                self._runs = module.AgentRuns(layers, tools, self._journals)
            return self._runs
