"""Agents, as a definition declares them."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from millrace_shared.definition import limits as bounds
from millrace_shared.definition.fields import Description, JsonSchema, Part, Prompt
from millrace_shared.definition.guards import Guards


class Tool(Part):
    """A tool that an agent may call."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,99}$")] = Field(
        description="Registered name of the tool, such as `web.scrape`."
    )
    config: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the tool. Expressions and secrets are allowed here."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class AgentLimits(Part):
    """What one run of an agent may take."""

    max_iterations: int = Field(
        default=bounds.AGENT_ITERATIONS_DEFAULT,
        ge=1,
        le=bounds.AGENT_ITERATIONS_MAX,
        description="Calls of the model.",
    )
    total_tokens: int | None = Field(default=None, ge=1, description="Input and output tokens of the whole run.")


class Agent(Part):
    """An LLM with its instructions and tools."""

    model: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+:\S+$", max_length=200)] = Field(
        description="`provider:model`, such as `groq:llama-3.1-8b-instant`."
    )
    instructions: Prompt | None = Field(default=None, description="What the model is told before every prompt.")
    tools: tuple[Tool, ...] = Field(
        default=(),
        strict=False,
        max_length=bounds.TOOLS_MAX,
        description="Tools by name, or with their settings.",
    )
    temperature: float | None = Field(default=None, ge=0, le=2, description="Sampling temperature.")
    output: JsonSchema | None = Field(
        default=None, description="JSON Schema of the answer; a step's own `output` goes before it."
    )
    limits: AgentLimits = Field(default=AgentLimits(), description="Bounds of one run.")
    guards: Guards | None = Field(default=None, description="Checks of its prompts and answers.")
    description: Description | None = Field(default=None, description="For people.")
