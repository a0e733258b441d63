"""What the api answers with: plain JSON objects, typed. Times are RFC 3339 text, durations seconds."""

from typing import Any, Literal, NotRequired, TypedDict

Priority = Literal["high", "normal", "low"]
FINAL = frozenset({"completed", "failed", "cancelled", "timeout"})
"""The statuses that an execution ends with."""


class Accepted(TypedDict):
    """An execution that was started: it is durable."""

    execution_id: str
    execution_name: str | None
    workflow_id: str
    status: str
    created_at: str


class Failure(TypedDict):
    """Why an execution failed."""

    code: str | None
    category: str | None
    message: str | None
    step_id: str | None


class Step(TypedDict):
    """One step of an execution."""

    id: str
    execution_id: str
    step_id: str
    agent_id: str | None
    status: str
    started_at: str | None
    completed_at: str | None
    duration: float | None
    retry_count: int
    input_data: Any
    output_data: Any
    error_message: str | None
    tokens_used: int
    cost_usd: float | None


class ExecutionSummary(TypedDict):
    """An execution in a list. A cost of None means that some of it has no known price."""

    id: str
    workflow_id: str
    workflow_name: str
    workflow_version: int
    execution_number: int | None
    execution_name: str | None
    status: str
    started_at: str | None
    completed_at: str | None
    duration: float | None
    error: Failure | None
    error_message: str | None
    tokens_used: int
    cost_usd: float | None
    labels: dict[str, str]
    created_at: str
    updated_at: str


class Execution(ExecutionSummary):
    """An execution with its values and steps, in the author's order."""

    input_variables: dict[str, Any]
    results: Any
    step_executions: list[Step]


class TimelineStep(TypedDict):
    """One step on the time line. Long values are cut, and say so."""

    step_id: str
    step_name: str
    step_order: int
    status: str
    started_at: str | None
    completed_at: str | None
    duration_seconds: float | None
    retry_count: int
    error_message: str | None
    input_summary: Any
    output_summary: Any


class Timeline(TypedDict):
    """When each step ran."""

    execution_id: str
    workflow_id: str
    status: str
    started_at: str | None
    completed_at: str | None
    total_duration_seconds: float | None
    step_count: int
    completed_step_count: int
    failed_step_count: int
    skipped_step_count: int
    step_timeline: list[TimelineStep]
    error_message: str | None


class Workflow(TypedDict):
    """A workflow at one version."""

    id: str
    name: str
    description: str | None
    version: int
    latest_version: int
    content_hash: str
    created_at: str
    updated_at: str
    archived_at: str | None
    definition: NotRequired[dict[str, Any]]
    warnings: NotRequired[list[dict[str, Any]]]


class ExecutionPage(TypedDict):
    """A page of executions. Go on with `cursor=next_cursor`."""

    items: list[ExecutionSummary]
    total: int
    skip: int
    limit: int
    next_cursor: str | None


class WorkflowPage(TypedDict):
    """A page of workflows."""

    items: list[Workflow]
    total: int
    skip: int
    limit: int
    next_cursor: str | None


class LiveMessage(TypedDict):
    """One message of an execution's live feed. `id` is where to resume after it."""

    id: str
    event: str
    data: dict[str, Any]
