"""The workflow definition as a model: what a document means once it is known to be right.

Everything here is immutable and holds no I/O. Rules that span fields (a step has exactly one kind, needs
exist, expressions refer to ancestors) live in `validation.py`, which finds all of them at once. Build a
definition from a person's text with `validation.validate`, and from a stored canonical document with
`WorkflowDefinition.model_validate`.

`null` and absent mean the same at every place that this model defines. Inside values that belong to the
author (`transform`, `input`, `json`, `plan`, JSON Schemas) null is null.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from millrace_shared.definition import limits as bounds
from millrace_shared.definition.agents import Agent, AgentLimits, Tool
from millrace_shared.definition.durations import PositiveDuration
from millrace_shared.definition.fields import (
    Description,
    DisplayName,
    FieldName,
    JsonSchema,
    Part,
    Prompt,
    StepId,
    WorkflowName,
)
from millrace_shared.definition.flow import Concurrency, Debounce, Singleton, Throttle
from millrace_shared.definition.kinds import Approval, HttpCall, PythonCall, Wait, WorkflowCall
from millrace_shared.definition.policies import (
    NO_RETRY,
    RETRIED_BY_DEFAULT,
    Budget,
    Cache,
    Defaults,
    ErrorCategory,
    Limits,
    Repeat,
    Retry,
)

__all__ = [
    "CHILD_KINDS",
    "NO_RETRY",
    "RETRIED_BY_DEFAULT",
    "STEP_KINDS",
    "Agent",
    "AgentLimits",
    "Approval",
    "Budget",
    "Cache",
    "Concurrency",
    "Debounce",
    "Defaults",
    "ErrorCategory",
    "Group",
    "HttpCall",
    "JsonSchema",
    "Limits",
    "OnError",
    "Part",
    "PythonCall",
    "Repeat",
    "Retry",
    "RunRule",
    "Singleton",
    "Step",
    "StepKind",
    "Throttle",
    "Tool",
    "Wait",
    "WorkflowCall",
    "WorkflowDefinition",
]

StepKind = Literal["agent", "http", "python", "transform", "wait", "approval", "workflow", "group", "plan"]
STEP_KINDS: tuple[StepKind, ...] = (
    "agent",
    "http",
    "python",
    "transform",
    "wait",
    "approval",
    "workflow",
    "group",
    "plan",
)

CHILD_KINDS: tuple[StepKind, ...] = ("workflow", "group", "plan")
"""Kinds whose attempts are executions of their own."""

RunRule = Literal["default", "strict", "always", "on_failure"]
OnError = Literal["fail", "continue"]


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
        default=None,
        description="Arguments of a python step, inputs of a workflow, group or plan, or data for an agent.",
    )
    output: JsonSchema | None = Field(default=None, description="JSON Schema that the output must match.")
    retry: Retry | None = Field(default=None, description="Retry rule; replaces that of `defaults`.")
    timeout: PositiveDuration | None = Field(default=None, description="Time limit of one attempt.")
    repeat: Repeat | None = Field(default=None, description="Do it again until its output meets a condition.")
    cache: Cache | None = Field(default=None, description="Keep the result for later executions.")
    budget: Budget | None = Field(
        default=None,
        description="Budget of an agent, workflow, group or plan step, its items included.",
    )
    on_error: OnError = Field(default="fail", description="Whether a failure ends the execution.")
    agent: StepId | None = Field(default=None, description="Name of an agent declared in `agents`.")
    prompt: Prompt | None = Field(default=None, description="What the agent is asked.")
    http: HttpCall | None = Field(default=None, description="An HTTP request.")
    python: PythonCall | None = Field(default=None, description="A Python function.")
    transform: Any = Field(default=None, description="A value built from expressions; it is the step's output.")
    wait: Wait | None = Field(default=None, description="A pause.")
    approval: Approval | None = Field(default=None, description="A question to people.")
    workflow: WorkflowCall | None = Field(default=None, description="Another workflow, by its name.")
    group: "Group | None" = Field(default=None, description="Steps of its own, run as one.")
    plan: Any = Field(
        default=None, description="An expression that gives a definition, or one that is built from expressions."
    )

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


class Group(Part):
    """A graph within a step. It sees the step's `input` as its `inputs`, and nothing else of what surrounds it."""

    steps: dict[StepId, Step] = Field(
        min_length=1,
        max_length=bounds.STEPS_MAX,
        description="Steps by id, in the order in which people read them.",
    )
    outputs: dict[FieldName, Any] = Field(
        default_factory=dict,
        max_length=bounds.OUTPUTS_MAX,
        description="The step's output, by name; without them, the outputs of the steps that no other one needs.",
    )


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
    priority: Literal["high", "normal", "low"] = Field(
        default="normal", description="Lane of its executions; that of a request or a trigger goes before it."
    )
    limits: Limits = Field(default=Limits(), description="Bounds of one execution.")
    defaults: Defaults = Field(default=Defaults(), description="What holds for steps that say nothing else.")
    concurrency: Concurrency | None = Field(default=None, description="How many executions run at the same time.")
    throttle: Throttle | None = Field(default=None, description="How many executions begin within a time.")
    debounce: Debounce | None = Field(default=None, description="Of several starts in a row, run the newest one only.")
    singleton: Singleton | None = Field(default=None, description="Run one at a time, and drop the others.")
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

    @model_validator(mode="before")
    @classmethod
    def _no_singleton(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("singleton") is False:
            return {key: item for key, item in value.items() if key != "singleton"}
        return value

    @property
    def step_order(self) -> tuple[str, ...]:
        """Step ids in the author's order."""
        return tuple(self.steps)

    def retry_of(self, step_id: str) -> Retry:
        """Returns the retry rule of a step: its own, else that of `defaults`, else one attempt.

        `defaults` are for steps that do something themselves: what a workflow, group or plan runs was retried already,
        step by step. A wait and a question to people have one attempt.
        """
        step = self.steps[step_id]
        if step.kind in ("wait", "approval"):
            return NO_RETRY
        inherited = None if step.kind in CHILD_KINDS else self.defaults.retry
        return step.retry or inherited or NO_RETRY

    def timeout_s_of(self, step_id: str) -> float:
        """Returns the time limit of one attempt of a step, in seconds.

        A step that waits, or that runs steps of its own, may last as long as the execution unless it says otherwise.
        """
        step = self.steps[step_id]
        if step.approval is not None:
            return step.approval.deadline or self.limits.timeout
        if step.wait is not None:
            return step.wait.timeout or self.limits.timeout
        if step.kind in CHILD_KINDS:
            return step.timeout or self.limits.timeout
        return step.timeout or self.defaults.timeout or bounds.STEP_TIMEOUT_DEFAULT_S

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
        - wait: `{"delay": seconds}`, `{"until": RFC 3339 text}` or `{"signal", "timeout": seconds}`
        - approval: `{"message"}`
        - workflow, group: the inputs by name
        - plan: `{"plan", "input": the inputs by name}`

        Keys that the author left out are absent.
        """
        step = self.steps[step_id]
        if step.agent is not None:
            return self._agent_template(step, step.agent)
        if step.http is not None:
            return {"method": step.http.method} | step.http.model_dump(by_alias=True, exclude_unset=True)
        if step.wait is not None:
            return step.wait.model_dump(exclude_none=True, exclude={"default"})
        if step.approval is not None:
            return {"message": step.approval.message}
        if step.plan is not None:
            return {"plan": step.plan, "input": step.input or {}}
        return step.transform if step.transform is not None else step.input or {}

    def _agent_template(self, step: Step, name: str) -> dict[str, Any]:
        agent = self.agents[name]
        parts = {
            "prompt": step.prompt,
            "input": step.input,
            "instructions": agent.instructions,
            "tools": {tool.name: tool.config for tool in agent.tools if tool.config} or None,
        }
        return {name: part for name, part in parts.items() if part is not None}
