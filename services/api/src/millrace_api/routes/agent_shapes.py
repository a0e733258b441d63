"""What saved agents look like, for the OpenAPI document alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from millrace_api.routes.shapes import Mistake, Page


class AgentSummary(BaseModel):
    """An agent at one version."""

    id: str
    name: str
    description: str | None
    version: int
    latest_version: int
    content_hash: str
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


class AgentFields(BaseModel):
    """What an agent is, and as its author wrote it."""

    agent_type: Literal["react"]
    llm_provider: str
    llm_model: str
    temperature: float | None
    instructions: str | None
    tools: list[dict[str, Any]]
    max_iterations: int
    streaming_enabled: bool
    fallback_models: list[str]
    timeout: float | None = Field(description="Seconds of one call of a model; null is that of the step's attempt.")
    output: dict[str, Any] | None = Field(description="JSON Schema of the answer.")
    definition: dict[str, Any]
    source: str
    source_format: Literal["json", "yaml"]


class AgentDetail(AgentSummary, AgentFields):
    """An agent with what it is."""

    warnings: list[Mistake] | None = None


class AgentPage(Page):
    """Agents."""

    items: list[AgentSummary]


class AgentVersionSummary(BaseModel):
    """One version of an agent. It never changes."""

    agent_id: str
    name: str
    version: int
    content_hash: str
    created_at: datetime
    created_by: str


class AgentVersionDetail(AgentVersionSummary, AgentFields):
    """One version with what it is."""


class AgentVersionPage(Page):
    """Versions of an agent, newest first."""

    items: list[AgentVersionSummary]


class CheckedAgent(BaseModel):
    """An agent without mistakes."""

    valid: Literal[True]
    name: str
    content_hash: str
    warnings: list[Mistake]


class Invocation(BaseModel):
    """What an agent is asked. The first request with an `execution_name` starts an execution, a repeat finds it."""

    prompt: str
    input: Any = Field(default=None, description="Data that the model sees as JSON, under the key `input`.")
    version: int | None = None
    execution_name: str | None = None
    priority: Literal["high", "normal", "low"] | None = None
    labels: dict[str, str] | None = None


SCHEMAS: dict[str, Any] = {"Invocation": Invocation.model_json_schema()}

AGENT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The agent, as YAML or JSON: `name`, and what an agent of a definition has.",
        "content": {
            "application/yaml": {"schema": {"type": "string"}},
            "application/json": {"schema": {"type": "object"}},
        },
    }
}
