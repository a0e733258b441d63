"""What a step may do, other than ask an agent, build a value, or run steps of its own."""

from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from millrace_shared.definition import limits as bounds
from millrace_shared.definition.durations import Duration, PositiveDuration
from millrace_shared.definition.fields import JsonSchema, Part, StepId, WorkflowName


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


class WorkflowCall(Part):
    """Another workflow, run as an execution of its own; the step's `input` is its input, its results the output."""

    name: WorkflowName = Field(description="Name of the workflow.")
    version: int | None = Field(
        default=None, ge=1, description="Its version; without it, the latest one when the execution is accepted."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def key(self) -> str:
        """The workflow as `StartRequest.uses` names it: `billing` or `billing@3`."""
        return self.name if self.version is None else f"{self.name}@{self.version}"


class NotGiven(Enum):
    """Stands for a default that the author left out, where null is a default like any other."""

    NOT_GIVEN = "not given"


NOT_GIVEN = NotGiven.NOT_GIVEN


class Wait(Part):
    """A pause that occupies no worker: for a time, until a time, or until a signal comes."""

    delay: Duration | None = Field(default=None, description="How long.")
    until: Annotated[str, StringConstraints(min_length=1, max_length=2_000)] | None = Field(
        default=None, description="RFC 3339 time, or an expression that gives one."
    )
    signal: StepId | None = Field(default=None, description="Name of the signal; its data is the output.")
    timeout: PositiveDuration | None = Field(default=None, description="How long to wait for the signal.")
    default: Any = Field(
        default_factory=lambda: NOT_GIVEN,
        description="Output if no signal came in time, null included; without it the step fails.",
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        is_kept = value.get("signal") is not None
        return {key: item for key, item in value.items() if item is not None or (is_kept and key == "default")}

    @property
    def has_default(self) -> bool:
        """Whether the step completes with `default`, rather than fails, when no signal came in time."""
        return self.default is not NOT_GIVEN


class Approval(Part):
    """A question to people. The step ends when one of them approves or rejects, or at its deadline."""

    message: Annotated[str, StringConstraints(min_length=1, max_length=bounds.MESSAGE_CHARS_MAX)] = Field(
        description="What is to be decided. Expressions are allowed here."
    )
    deadline: PositiveDuration | None = Field(default=None, description="How long the question stands.")
    default: Literal["approve", "reject", "fail"] = Field(
        default="fail", description="What the deadline does; `fail` ends the step with an error of category `timeout`."
    )
    on_reject: Literal["fail", "complete"] = Field(
        default="fail", description="Whether a rejection fails the step, or completes it with `approved: false`."
    )
    form: JsonSchema | None = Field(default=None, description="JSON Schema of what is to be entered when approving.")
