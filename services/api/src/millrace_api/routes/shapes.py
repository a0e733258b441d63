"""What requests and answers look like, for the OpenAPI document alone: no request is validated by these.

Fields are tabled here as `name: type` so that the document has them; what they mean is said once, in docs/api.md.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

Status = Literal["pending", "running", "paused", "completed", "failed", "cancelled", "timeout"]
StepStatus = Literal["pending", "running", "waiting", "completed", "failed", "skipped", "cancelled", "timeout"]


class Mistake(BaseModel):
    """One mistake. Definitions give `loc` as the path that people write, with line, column and suggestion."""

    loc: list[str | int] | str
    msg: str
    type: str
    input: Any = None
    line: int | None = None
    column: int | None = None
    suggestion: str | None = None


class Problem(BaseModel):
    """RFC 9457. `code` is stable: switch on it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[Mistake] | None = None


class Launch(BaseModel):
    """A request to start an execution."""

    workflow: str = Field(description="Id or name; left out where the path names the workflow.")
    version: int | None = Field(None, description="The latest version when absent.")
    execution_name: str | None = Field(
        None, max_length=200, description="Makes the request repeatable: one execution per workflow and name."
    )
    input: dict[str, Any] | None = Field(None, description="Checked against the workflow's `inputs`.")
    priority: Literal["high", "normal", "low"] | None = Field(
        default=None, description="`high`, `normal` or `low`; without it, that of the definition, else `normal`."
    )
    labels: dict[str, str] = Field({}, description="At most 32, to find executions by.")
    breakpoints: list[str] | None = Field(
        None, description="Steps that are held before they begin, by id; `*` is every one."
    )


class Accepted(BaseModel):
    """An execution that is durable."""

    execution_id: str
    execution_name: str | None
    workflow_id: str
    status: Status
    created_at: datetime


class ExecutionError(BaseModel):
    """Why an execution failed."""

    code: str
    category: str
    message: str
    step_id: str | None


class StepProgress(BaseModel):
    """Where a step is, and where its work is done or its output came from."""

    status: StepStatus
    reason: str | None = Field(
        description="What a waiting step waits for: `approval`, `signal`, `delay`, `until`, `breakpoint`, `retry`, "
        "`tokens` (a rate limit) or `budget`; "
        "`place` of a pending one when others that run must end first; else why it was skipped or cancelled."
    )
    wait_until: datetime | None = Field(description="When it goes on at the latest.")
    wait_detail: str | None = Field(description="What it waits for in words, where an agent does.")
    signal: str | None = Field(description="Name of the signal that it waits for.")
    iteration: int | None = Field(description="Of a step with `repeat`: the one under way, or the last; from 1.")
    child_execution_id: str | None = Field(description="The execution that performs it.")
    cached: bool = Field(description="The output came from the result cache: nothing was done.")
    reused_from: str | None = Field(description="The execution that the output was taken over from.")
    scores: dict[str, float] = Field(description="What an agent's guards gave, by their names: from 0 to 1, 1 is best.")


class StepExecution(StepProgress):
    """One step of an execution. Durations are in seconds."""

    id: str
    execution_id: str
    step_id: str
    agent_id: str | None
    started_at: datetime | None
    completed_at: datetime | None
    duration: float | None
    retry_count: int
    input_data: Any
    output_data: Any
    error_message: str | None
    tokens_used: int
    cost_usd: float | None = Field(description="Null when a price is unknown: unknown is not free.")


class StepItem(StepProgress):
    """One item of a `for_each` step; its values with `?item=`."""

    item: int
    started_at: datetime | None
    completed_at: datetime | None
    duration: float | None
    retry_count: int
    error_message: str | None


class StepAttempt(BaseModel):
    """One attempt that has ended. `repeat` counts on: every iteration has attempts of its own."""

    attempt: int
    status: Literal["completed", "failed", "timeout"]
    started_at: datetime | None
    completed_at: datetime | None
    duration: float | None
    runner: str | None
    error: dict[str, Any] | None
    tokens_used: int
    cost_usd: float | None


class StepDetail(StepExecution):
    """A step with its whole values."""

    attempt: int
    attempts: list[StepAttempt] = Field(description="Those that have ended, oldest first, at most 1,000.")
    item_count: int | None = None
    items: list[StepItem] | None = None


class Origin(BaseModel):
    """What an execution was started by, other than a plain request."""

    kind: Literal["retry", "fork", "replay", "cron", "event", "webhook", "alert"]
    execution_id: str | None = Field(description="Of a retry, fork or replay: the execution that it repeats.")
    step_id: str | None = Field(description="Of a fork: the step that it starts from.")
    trigger_id: str | None


class Held(BaseModel):
    """The gate of flow control that a pending execution waits at."""

    rule: Literal["concurrency", "throttle", "debounce"]
    key: str | None
    since: datetime


class Paused(BaseModel):
    """Who paused an execution, when, and why."""

    by: str | None
    reason: str | None
    since: datetime


class Ending(BaseModel):
    """How an execution will end, once what still runs is through."""

    outcome: Literal["completed", "failed", "cancelled", "timeout"]
    since: datetime


class ExecutionSummary(BaseModel):
    """An execution in a list."""

    id: str
    workflow_id: str
    workflow_name: str
    workflow_version: int
    execution_number: int | None = Field(description="Counts the workflow's executions; null for a moment.")
    execution_name: str | None
    status: Status
    priority: str
    started_at: datetime | None
    completed_at: datetime | None
    duration: float | None
    error: ExecutionError | None
    error_message: str | None
    tokens_used: int
    cost_usd: float | None
    trace_id: str | None
    labels: dict[str, str]
    parent_id: str | None = Field(description="The execution whose step this one performs.")
    parent_step_id: str | None
    parent_item: int | None
    root_id: str = Field(description="The execution at the top; its own id there.")
    depth: int = Field(description="How far below the top; 0 there.")
    part: str | None = Field(description="Of a group: the step ids on the way to it, joined by `/`.")
    origin: Origin | None
    held: Held | None
    paused: Paused | None
    ending: Ending | None
    deadline: datetime | None = Field(description="When it is timed out.")
    created_at: datetime
    updated_at: datetime


class ExecutionDetail(ExecutionSummary):
    """An execution with its values and steps."""

    breakpoints: list[str]
    input_variables: dict[str, Any]
    results: Any
    step_executions: list[StepExecution]


class Page(BaseModel):
    """A page of a list. Go on with `cursor=<next_cursor>`."""

    total: int
    skip: int
    limit: int
    next_cursor: str | None


class ExecutionPage(Page):
    """Executions."""

    items: list[ExecutionSummary]


class EventEntry(BaseModel):
    """One event of a log, with the fields of its type."""

    id: str
    version: int
    at: datetime
    type: str


class EventPage(BaseModel):
    """Events, oldest first."""

    items: list[EventEntry]
    limit: int
    next_cursor: str | None


class TimelineStep(StepProgress):
    """One step on the time line."""

    step_id: str
    step_name: str
    step_order: int
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    retry_count: int
    error_message: str | None
    input_summary: Any
    output_summary: Any


class Timeline(BaseModel):
    """When each step ran."""

    execution_id: str
    workflow_id: str
    status: Status
    started_at: datetime | None
    completed_at: datetime | None
    total_duration_seconds: float | None
    step_count: int
    completed_step_count: int
    failed_step_count: int
    skipped_step_count: int
    step_timeline: list[TimelineStep]
    error_message: str | None


class CancelAccepted(BaseModel):
    """The request to cancel is durable."""

    execution_id: str
    status: Literal["cancelling"]


Responses = dict[int | str, dict[str, Any]]


def json_of(model: type[BaseModel], status: int = 200) -> Responses:
    """Document the answer of a route."""
    return {status: {"model": model, "description": model.__doc__ or ""}}


def body(name: str, *, required: bool = True) -> dict[str, Any]:
    """Document a JSON body by the name of its schema."""
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


START_RESPONSES: Responses = {
    202: {"model": Accepted, "description": "Accepted: it is durable, and under way."},
    200: {
        "model": Accepted | ExecutionDetail,
        "description": "The first execution of this `execution_name`; with `wait`, the ended execution.",
    },
}

CANCEL_RESPONSES: Responses = {202: {"model": CancelAccepted, "description": "The request to cancel is durable."}}

EXTRA_SCHEMAS: dict[str, Any] = {
    "Launch": Launch.model_json_schema(),
    "Cancel": {
        "type": "object",
        "properties": {"reason": {"type": "string", "maxLength": 1000}},
        "additionalProperties": False,
    },
    "Mistake": Mistake.model_json_schema(),
    "Problem": Problem.model_json_schema(ref_template="#/components/schemas/{model}"),
}
EXTRA_SCHEMAS["Problem"].pop("$defs", None)
