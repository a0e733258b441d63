"""The workflow definition as a model: what a document means once it is known to be right.

Everything here is immutable and holds no I/O. Rules that span fields (a step has exactly one kind, needs
exist, expressions refer to ancestors) live in `validation.py`, which finds all of them at once. Build a
definition from a person's text with `validation.validate`, and from a stored canonical document with
`WorkflowDefinition.model_validate`.

`null` and absent mean the same at every place that this model defines. Inside values that belong to the
author (`transform`, `input`, `json`, JSON Schemas) null is null.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from millrace_shared.definition import limits as bounds
from millrace_shared.definition.durations import Duration, PositiveDuration

StepKind = Literal["agent", "http", "python", "transform", "wait"]
STEP_KINDS: tuple[StepKind, ...] = ("agent", "http", "python", "transform", "wait")

UNAVAILABLE_STEP_KINDS = ("workflow", "approval")
"""Kinds that the format reserves and this version refuses by name."""

UNAVAILABLE_STEP_KEYS = ("repeat", "cache", "concurrency")
UNAVAILABLE_KEYS = ("triggers", "concurrency")

RunRule = Literal["default", "strict", "always", "on_failure"]
OnError = Literal["fail", "continue"]
ErrorCategory = Literal[
    "rate_limit",
    "timeout",
    "server_error",
    "connection",
    "internal",
    "invalid_output",
    "client_error",
    "user_code",
]
"""What `retry.errors` may name; a step's error carries one of these, or one that is never retried."""

RETRIED_BY_DEFAULT: tuple[ErrorCategory, ...] = (
    "rate_limit",
    "timeout",
    "server_error",
    "connection",
    "internal",
)
"""Failures likely to pass. A wrong output, a refused request or the user's own exception are not."""

StepId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
"""Also the form of agent and secret ids: lower-case letters, digits, `_`, `-`; a letter first; at most 64."""

WorkflowName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?$", max_length=bounds.NAME_CHARS_MAX)
]
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=bounds.ID_CHARS_MAX)]
"""Names of inputs and outputs."""

DisplayName = Annotated[str, StringConstraints(min_length=1, max_length=bounds.NAME_CHARS_MAX)]
Description = Annotated[str, StringConstraints(max_length=bounds.DESCRIPTION_CHARS_MAX)]
Prompt = Annotated[str, StringConstraints(max_length=bounds.PROMPT_BYTES_MAX)]
JsonSchema = dict[str, Any]
"""A JSON Schema, Draft 2020-12; `validation.py` checks that it is one."""


class Part(BaseModel):
    """A part of a definition: unknown keys are refused, null is absent, and it never changes."""

    # Strict: "3" is not 3 and true is not 1. Lists are exempt, as JSON has no tuples.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if item is not None}
        return value


class Retry(Part):
    """When and how often a failed attempt is repeated."""

    max_attempts: int = Field(
        default=bounds.RETRY_ATTEMPTS_DEFAULT,
        ge=1,
        le=bounds.RETRY_ATTEMPTS_MAX,
        description="Attempts in all, the first one included.",
    )
    backoff: Literal["exponential", "linear", "fixed"] = Field(
        default="exponential", description="How the pause grows from one attempt to the next."
    )
    initial: Duration = Field(default=bounds.RETRY_INITIAL_DEFAULT_S, description="Pause before the second attempt.")
    max: Duration = Field(default=bounds.RETRY_MAX_DEFAULT_S, description="Longest pause.")
    jitter: bool = Field(default=True, description="Spread the pauses at random, so that retries do not come in waves.")
    errors: tuple[ErrorCategory, ...] = Field(
        default=RETRIED_BY_DEFAULT, strict=False, description="Categories of errors that are retried."
    )


NO_RETRY = Retry(max_attempts=1)


class Limits(Part):
    """What one execution may take."""

    timeout: PositiveDuration = Field(
        default=bounds.EXECUTION_TIMEOUT_DEFAULT_S, description="Longest time from start to end."
    )
    max_cost_usd: float | None = Field(default=None, ge=0, description="Budget for LLM calls, in US dollars.")
    max_parallel: int = Field(
        default=bounds.MAX_PARALLEL_DEFAULT,
        ge=1,
        le=bounds.MAX_PARALLEL_MAX,
        description="Steps and items that run at the same time.",
    )


class Defaults(Part):
    """What holds for every step that says nothing else. A step's own `retry` replaces this one as a whole."""

    retry: Retry | None = Field(default=None, description="Retry rule of steps that have none.")
    timeout: PositiveDuration | None = Field(default=None, description="Time limit of one attempt of a step.")


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
    description: Description | None = Field(default=None, description="For people.")


class HttpCall(Part):
    """One HTTP request. Expressions may stand in every value, secrets anywhere but in the method."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = Field(
        default="GET", description="Method of the request."
    )
    url: Annotated[str, StringConstraints(min_length=1, max_length=bounds.URL_CHARS_MAX)] = Field(
        description="Absolute http or https address."
    )
    query: dict[str, Any] | None = Field(default=None, description="Query parameters.")
    headers: dict[str, str] | None = Field(default=None, description="Request headers.")
    json_body: Any = Field(default=None, alias="json", description="Body, sent as JSON.")
    body: str | None = Field(default=None, description="Body, sent as it is.")


class PythonCall(Part):
    """A call of a Python function that the runner allows; the step's `input` is its keyword arguments."""

    call: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?$", max_length=200)] = Field(
        description="`package.module:function`, or the name under which a function is registered."
    )

    @model_validator(mode="before")
    @classmethod
    def _call_alone(cls, value: Any) -> Any:
        return {"call": value} if isinstance(value, str) else value


class Wait(Part):
    """A pause that occupies no worker: for a time, or until a time."""

    delay: Duration | None = Field(default=None, description="How long.")
    until: Annotated[str, StringConstraints(min_length=1, max_length=2_000)] | None = Field(
        default=None, description="RFC 3339 time, or an expression that gives one."
    )


class Step(Part):
    """One node of the graph: what runs, after what, and what happens when it fails."""

    name: DisplayName | None = Field(default=None, description="Display name.")
    description: Description | None = Field(default=None, description="For people.")
    needs: tuple[StepId, ...] = Field(
        default=(),
        strict=False,
        max_length=bounds.NEEDS_MAX,
        description="Steps that end before this one starts.",
    )
    when: str | None = Field(default=None, description="Condition: a bare expression, without `${{ }}`.")
    run: RunRule = Field(default="default", description="What must have become of the needs for this step to run.")
    for_each: Any = Field(default=None, description="A list, or an expression that gives one: one run per item.")
    max_parallel: int | None = Field(
        default=None,
        ge=1,
        le=bounds.MAX_PARALLEL_MAX,
        description="Items of `for_each` that run at the same time.",
    )
    input: dict[str, Any] | None = Field(
        default=None, description="Arguments of a python step, or data that an agent gets with its prompt."
    )
    output: JsonSchema | None = Field(default=None, description="JSON Schema that the output must match.")
    retry: Retry | None = Field(default=None, description="Retry rule; replaces that of `defaults`.")
    timeout: PositiveDuration | None = Field(default=None, description="Time limit of one attempt.")
    on_error: OnError = Field(default="fail", description="Whether a failure ends the execution.")
    agent: StepId | None = Field(default=None, description="Name of an agent declared in `agents`.")
    prompt: Prompt | None = Field(default=None, description="What the agent is asked.")
    http: HttpCall | None = Field(default=None, description="An HTTP request.")
    python: PythonCall | None = Field(default=None, description="A Python function.")
    transform: Any = Field(default=None, description="A value built from expressions; it is the step's output.")
    wait: Wait | None = Field(default=None, description="A pause.")

    @model_validator(mode="before")
    @classmethod
    def _boolean_condition(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("when"), bool):
            return {**value, "when": "true" if value["when"] else "false"}
        return value

    @property
    def kind(self) -> StepKind:
        """What the step does; exactly one kind is set in a validated definition."""
        for kind in STEP_KINDS:
            if getattr(self, kind) is not None:
                return kind
        raise ValueError("the step has no kind; only validated definitions have one for every step")


class WorkflowDefinition(Part):
    """A workflow: a graph of steps with its inputs, agents, limits and outputs."""

    version: Literal[1] = Field(default=1, description="Version of the format.")
    name: WorkflowName = Field(description="Name of the workflow: lower-case letters, digits, `-` and `_`.")
    description: Description | None = Field(default=None, description="For people.")
    inputs: dict[FieldName, JsonSchema] = Field(
        default_factory=dict,
        max_length=bounds.INPUTS_MAX,
        description="Inputs by name, each a JSON Schema; `default` makes one optional.",
    )
    secrets: tuple[StepId, ...] = Field(
        default=(),
        strict=False,
        max_length=bounds.SECRETS_MAX,
        description="Names of the secrets that the workflow may use.",
    )
    limits: Limits = Field(default=Limits(), description="Bounds of one execution.")
    defaults: Defaults = Field(default=Defaults(), description="What holds for steps that say nothing else.")
    agents: dict[StepId, Agent] = Field(
        default_factory=dict, max_length=bounds.AGENTS_MAX, description="Agents by name."
    )
    steps: dict[StepId, Step] = Field(
        min_length=1,
        max_length=bounds.STEPS_MAX,
        description="Steps by id, in the order in which people read them.",
    )
    outputs: dict[FieldName, Any] = Field(
        default_factory=dict, max_length=bounds.OUTPUTS_MAX, description="The execution's results, by name."
    )

    @model_validator(mode="before")
    @classmethod
    def _unconstrained_inputs(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("inputs"), dict):
            schemas = value["inputs"]
            return {**value, "inputs": {name: {} if item is None else item for name, item in schemas.items()}}
        return value

    @property
    def step_order(self) -> tuple[str, ...]:
        """Step ids in the author's order."""
        return tuple(self.steps)

    def retry_of(self, step_id: str) -> Retry:
        """Returns the retry rule of a step: its own, else that of `defaults`, else one attempt."""
        return self.steps[step_id].retry or self.defaults.retry or NO_RETRY

    def timeout_s_of(self, step_id: str) -> float:
        """Returns the time limit of one attempt of a step, in seconds."""
        return self.steps[step_id].timeout or self.defaults.timeout or bounds.STEP_TIMEOUT_DEFAULT_S

    def max_parallel_of(self, step_id: str) -> int:
        """Returns how many items of a `for_each` step run at the same time."""
        return min(self.steps[step_id].max_parallel or self.limits.max_parallel, self.limits.max_parallel)

    def template_of(self, step_id: str) -> Any:
        """Returns everything of a step that may hold expressions, as one JSON value.

        Resolved, it is what an attempt of the step works on. Its shape depends on the kind:

        - agent: `{"prompt", "input", "instructions", "tools": {name: config}}`
        - http: `{"method", "url", "query", "headers", "json", "body"}`
        - python: the keyword arguments
        - transform: the value
        - wait: `{"delay": seconds}` or `{"until": RFC 3339 text}`

        Keys that the author left out are absent.
        """
        step = self.steps[step_id]
        match step.kind:
            case "agent":
                return self._agent_template(step)
            case "http":
                assert step.http is not None
                return {"method": step.http.method} | step.http.model_dump(by_alias=True, exclude_unset=True)
            case "python":
                return step.input or {}
            case "transform":
                return step.transform
            case "wait":
                assert step.wait is not None
                return step.wait.model_dump(exclude_none=True)

    def _agent_template(self, step: Step) -> dict[str, Any]:
        assert step.agent is not None
        agent = self.agents[step.agent]
        parts = {
            "prompt": step.prompt,
            "input": step.input,
            "instructions": agent.instructions,
            "tools": {tool.name: tool.config for tool in agent.tools if tool.config} or None,
        }
        return {name: part for name, part in parts.items() if part is not None}
