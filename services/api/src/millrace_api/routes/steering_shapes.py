"""What requests that steer executions, and their answers, look like, for the OpenAPI document alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from millrace_api.domain.requests import BULK_DEFAULT, BULK_MAX
from millrace_api.routes.shapes import Accepted, Responses, Status, StepStatus

_Breakpoints = Field(None, description="Steps that are held before they begin, by id; `*` is every one.")
_Item = Field(None, ge=0, description="The item, of a `for_each` step.")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Pause(_Body):
    """Why, for those who look at it later."""

    reason: str | None = Field(None, max_length=1_000)


class Resume(_Body):
    """Nothing to say."""


class Signal(_Body):
    """What steps wait for with `wait: {signal: <name>}`."""

    name: str
    data: Any = Field(None, description="The output of the step that takes it.")
    id: str | None = Field(None, max_length=200, description="The same id twice is one signal.")


class Verdict(_Body):
    """The answer to an approval step."""

    note: str | None = Field(None, max_length=4_000)
    data: Any = Field(None, description="What the step's form asks for.")
    item: int | None = _Item


class Continue(_Body):
    """Letting a step go on that a breakpoint holds."""

    item: int | None = _Item
    input: Any = Field(None, description="In place of the step's own resolved input.")


class Again(_Body):
    """A retry or a replay."""

    execution_name: str | None = Field(None, max_length=200, description="Makes the request repeatable.")
    breakpoints: list[str] | None = _Breakpoints


class Fork(_Body):
    """What came before `from_step` is taken over, and the rest runs anew."""

    from_step: str
    input: dict[str, Any] | None = Field(None, description="In place of the whole input.")
    version: int | None = Field(None, ge=1, description="The same version when absent.")
    execution_name: str | None = Field(None, max_length=200, description="Makes the request repeatable.")
    breakpoints: list[str] | None = _Breakpoints


class Bulk(_Body):
    """Which executions, of those at the top. At least one criterion is needed."""

    workflow: str | None = Field(None, description="Id or name.")
    statuses: list[Status] | None = Field(
        None, description="To cancel: those that have not ended; to retry: failed and timeout; unless given."
    )
    labels: dict[str, str | None] | None = Field(None, description="Null: any value.")
    started_after: datetime | None = None
    started_before: datetime | None = None
    limit: int = Field(BULK_DEFAULT, ge=1, le=BULK_MAX, description="The newest so many.")
    dry_run: bool = Field(False, description="Say what would be done, and do nothing.")
    reason: str | None = Field(None, max_length=1_000, description="Why they are cancelled.")


class Steered(BaseModel):
    """It took effect."""

    execution_id: str
    status: Literal["paused", "running"]


class Steering(BaseModel):
    """It is durable, and takes effect as soon as an orchestrator gets to it."""

    execution_id: str
    status: Literal["pausing", "resuming"]


class Signalled(BaseModel):
    """`received`: the execution has it, and the step that waits, or will, takes it. `sent`: it is on its way."""

    execution_id: str
    signal: str
    id: str
    status: Literal["received", "sent"]


class Decided(BaseModel):
    """What became of the step; the words in -ing: it is on its way."""

    execution_id: str
    step_id: str
    item: int | None
    status: Literal["approved", "rejected", "continued", "approving", "rejecting", "continuing"]


class BulkDone(BaseModel):
    """One execution that was cancelled or retried."""

    execution_id: str
    new_execution_id: str | None = Field(None, description="Its retry.")


class BulkRefused(BaseModel):
    """One execution that was not, and why."""

    execution_id: str
    code: str
    detail: str
    new_execution_id: str | None = Field(None, description="With `already_retried`: its retry.")


class BulkAnswer(BaseModel):
    """What was done; with `dry_run`, what would be."""

    matched: int = Field(description="Executions that the filter finds; more than `limit` are left for the next time.")
    done: list[BulkDone]
    refused: list[BulkRefused]
    dry_run: bool


class Difference(BaseModel):
    """One place where two values differ; a side that has nothing there is absent."""

    path: str = Field(description="JSON pointer.")
    kind: Literal["changed", "added", "removed"]
    a: Any = None
    b: Any = None


class ComparedStep(BaseModel):
    """How a step fared."""

    status: StepStatus
    duration: float | None
    retry_count: int
    tokens_used: int
    cost_usd: float | None


class StepComparison(BaseModel):
    """One step in both; null where a version does not have it."""

    step_id: str
    a: ComparedStep | None
    b: ComparedStep | None
    same_status: bool
    same_output: bool
    output_differences: list[Difference]


class ComparedExecution(BaseModel):
    """How an execution fared."""

    id: str
    workflow_id: str
    workflow_version: int
    status: Status
    duration: float | None
    retry_count: int
    tokens_used: int
    cost_usd: float | None


class Comparison(BaseModel):
    """Two executions side by side. At most 100 differences of a value are listed, and long values are cut."""

    a: ComparedExecution
    b: ComparedExecution
    same_workflow: bool
    same_definition: bool
    same_input: bool
    same_results: bool
    input_differences: list[Difference]
    result_differences: list[Difference]
    steps: list[StepComparison]


DERIVED: Responses = {
    202: {"model": Accepted, "description": "Accepted: it is durable, and under way."},
    200: {"model": Accepted, "description": "The first execution of this `execution_name`."},
}

SCHEMAS: dict[str, Any] = {
    model.__name__: model.model_json_schema() for model in (Pause, Resume, Signal, Verdict, Continue, Again, Fork, Bulk)
}


def either(done: type[BaseModel], sent: type[BaseModel]) -> Responses:
    """Document the answers of a request that is durable, and has taken effect or has not yet."""
    return {
        200: {"model": done, "description": "It took effect."},
        202: {"model": sent, "description": "It is durable; it had not taken effect after 5 seconds."},
    }
