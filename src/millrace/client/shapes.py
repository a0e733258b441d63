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


class Progress(TypedDict):
    """Where a step is, and where its work is done or its output came from. `reason` says what it waits for."""

    status: str
    reason: str | None
    wait_until: str | None
    signal: str | None
    iteration: int | None
    child_execution_id: str | None
    cached: bool
    reused_from: str | None


class Step(Progress):
    """One step of an execution."""

    id: str
    execution_id: str
    step_id: str
    agent_id: str | None
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


class TimelineStep(Progress):
    """One step on the time line. Long values are cut, and say so."""

    step_id: str
    step_name: str
    step_order: int
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


class Reason(TypedDict):
    """One thing that an execution waits for, as a sentence; `reasons` say why that is not over."""

    code: str
    message: str
    step_id: str | None
    item: int | None
    until: str | None
    execution_id: str | None
    reasons: "list[Reason]"


class Why(TypedDict):
    """Why an execution is where it is. There is always a reason."""

    execution_id: str
    status: str
    message: str
    reasons: list[Reason]
    as_of: str


class Node(Progress):
    """A step in a graph. `items` counts those of a `for_each` by status."""

    id: str
    name: str
    kind: str | None
    when: str | None
    run: str | None
    started_at: str | None
    completed_at: str | None
    duration: float | None
    retry_count: int
    item_count: int | None
    items: dict[str, int] | None


Edge = TypedDict("Edge", {"from": str, "to": str, "status": str})
"""What a step (`to`) needs. `status` is pending, satisfied or unsatisfied."""


class Graph(TypedDict):
    """An execution as a graph."""

    execution_id: str
    workflow_id: str
    workflow_version: int
    part: str | None
    status: str
    nodes: list[Node]
    edges: list[Edge]


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


class BulkItem(TypedDict):
    """One execution of a bulk request: what was made of it, or why nothing was."""

    execution_id: str
    new_execution_id: NotRequired[str]
    code: NotRequired[str]
    detail: NotRequired[str]


class BulkAnswer(TypedDict):
    """What a bulk request did; with `dry_run`, what it would do. `matched` may be more than its limit."""

    matched: int
    done: list[BulkItem]
    refused: list[BulkItem]
    dry_run: bool


class Difference(TypedDict):
    """One place where two values differ: `changed`, `added` or `removed`."""

    path: str
    kind: str
    a: NotRequired[Any]
    b: NotRequired[Any]


class ComparedStep(TypedDict):
    """How a step fared."""

    status: str
    duration: float | None
    retry_count: int
    tokens_used: int
    cost_usd: float | None


class ComparedExecution(ComparedStep):
    """How an execution fared."""

    id: str
    workflow_id: str
    workflow_version: int


class StepComparison(TypedDict):
    """One step in two executions; None where one does not have it."""

    step_id: str
    a: ComparedStep | None
    b: ComparedStep | None
    same_status: bool
    same_output: bool
    output_differences: list[Difference]


class Comparison(TypedDict):
    """Two executions side by side."""

    a: ComparedExecution
    b: ComparedExecution
    same_workflow: bool
    same_definition: bool
    same_input: bool
    same_results: bool
    input_differences: list[Difference]
    result_differences: list[Difference]
    steps: list[StepComparison]


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
