"""Agents that are saved by themselves."""

from collections.abc import Mapping
from typing import Any, TypedDict, cast

import httpx

from millrace.client.shapes import Execution
from millrace.client.transport import Transport, part, present

WAIT_S = 60.0
"""How long one request waits for an agent's answer at most, as the api allows."""
WAIT_MARGIN_S = 5.0


class Agent(TypedDict, total=False):
    """An agent at one version. What it is, and its source, are there when it is shown by itself."""

    id: str
    name: str
    description: str | None
    version: int
    latest_version: int
    content_hash: str
    created_at: str
    updated_at: str
    archived_at: str | None
    llm_provider: str
    llm_model: str
    temperature: float | None
    instructions: str | None
    tools: list[dict[str, Any]]
    max_iterations: int
    streaming_enabled: bool
    fallback_models: list[str]
    timeout: float | None
    output: dict[str, Any] | None
    definition: dict[str, Any]
    source: str


class AgentPage(TypedDict):
    """A page of agents. Go on with `cursor=next_cursor`."""

    items: list[Agent]
    total: int
    next_cursor: str | None


class Agents(Transport):
    """The calls about agents."""

    def save_agent(self, source: bytes, name: str) -> tuple[Agent, bool]:
        """Save an agent, YAML or JSON, as the newest version of the one called `name`.

        Returns:
            The agent, and whether this made a version: the same agent again does not.
        """
        answer = self._send(
            "PUT", f"/agents/{part(name)}", content=source, headers={"Content-Type": "application/yaml"}
        )
        return cast("Agent", answer.json()), answer.status_code == httpx.codes.CREATED

    def agent(self, ref: str, version: int | None = None) -> Agent:
        """Return an agent by id or name, at its latest version or another one."""
        path = f"/agents/{part(ref)}" + ("" if version is None else f"/versions/{version}")
        return cast("Agent", self._send("GET", path).json())

    def agents(self, *, name: str | None = None, limit: int = 10, cursor: str | None = None) -> AgentPage:
        """Return a page of agents, newest first."""
        query = present(name=name, limit=limit, cursor=cursor)
        return cast("AgentPage", self._send("GET", "/agents", params=query).json())

    def archive_agent(self, ref: str) -> None:
        """Archive an agent: nothing that uses it starts any more."""
        self._send("DELETE", f"/agents/{part(ref)}")

    def invoke(
        self,
        ref: str,
        prompt: str,
        data: Any = None,
        *,
        version: int | None = None,
        execution_name: str | None = None,
        labels: Mapping[str, str] | None = None,
        wait_s: float = WAIT_S,
    ) -> Execution:
        """Run an agent alone; return the execution as it is when it has ended, or when `wait_s` are over.

        Its answer is `results["answer"]`. With an `execution_name` a repeat returns the first execution.
        """
        body = present(prompt=prompt, input=data, version=version, execution_name=execution_name, labels=labels)
        answer = self._send(
            "POST",
            f"/agents/{part(ref)}/invoke",
            json=body,
            params={"wait": wait_s},
            timeout=wait_s + WAIT_MARGIN_S,
            repeatable=execution_name is not None,
        )
        shown = answer.json()
        if "id" not in shown:
            shown = self._send("GET", f"/executions/{part(shown['execution_id'])}").json()
        return cast("Execution", shown)
