"""Agents, as a definition declares them."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from millrace_shared.definition import limits as bounds
from millrace_shared.definition.durations import PositiveDuration
from millrace_shared.definition.fields import Description, JsonSchema, Part, Prompt
from millrace_shared.definition.guards import Guards

PROVIDERS = ("openai", "anthropic", "groq", "google", "mistral", "offline")
"""Whom a model can be of: the part of `provider:model` before the colon."""

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+:\S+$", max_length=200)]
SavedAgentRef = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}(@[1-9][0-9]{0,8})?$")]
"""A saved agent: `name` is its latest version, `name@2` that one."""


class Tool(Part):
    """A tool that an agent may call."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.:-]{0,99}$")] = Field(
        description="Registered name of the tool, such as `web.scrape`, or `mcp:name` for those of an MCP server."
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
    """An LLM with its instructions and tools. In a definition that runs, `model` is set and `use` is not."""

    use: SavedAgentRef | None = Field(
        default=None,
        description="A saved agent in place of all else: `name`, or `name@version`; bound when an execution starts.",
    )
    model: ModelName | None = Field(default=None, description="`provider:model`, such as `groq:llama-3.1-8b-instant`.")
    fallback_models: tuple[ModelName, ...] = Field(
        default=(),
        strict=False,
        max_length=bounds.FALLBACK_MODELS_MAX,
        description="Models that are asked in turn when one cannot answer.",
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
    timeout: PositiveDuration | None = Field(
        default=None, description="Time limit of one call of a model; that of the step's attempt when absent."
    )
    streaming_enabled: bool = Field(default=True, description="Whether viewers see the answer while it comes.")
    guards: Guards | None = Field(default=None, description="Checks of its prompts and answers.")
    description: Description | None = Field(default=None, description="For people.")

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, value: Any) -> Any:
        return with_one_spelling(value) if isinstance(value, dict) else value


def with_one_spelling(raw: dict[str, Any]) -> dict[str, Any]:
    """Returns an agent, which is raw data, in the words of the model.

    `llm_provider` and `llm_model` together are a `model`, `max_iterations` is that of `limits`, and `agent_type: react`
    says what every agent is. Whatever contradicts itself stays as it is, and is refused as unknown keys.
    """
    agent = {key: value for key, value in raw.items() if value is not None}
    provider, model = agent.get("llm_provider"), agent.get("llm_model")
    if isinstance(provider, str) and isinstance(model, str) and "model" not in agent:
        agent["model"] = f"{agent.pop('llm_provider')}:{agent.pop('llm_model')}"
    limits = agent.get("limits", {})
    if "max_iterations" in agent and isinstance(limits, dict) and limits.get("max_iterations") is None:
        agent["limits"] = {**limits, "max_iterations": agent.pop("max_iterations")}
    if agent.get("agent_type") == "react":
        del agent["agent_type"]
    return agent
