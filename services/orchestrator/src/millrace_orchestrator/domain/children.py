"""Child executions: what performs a `workflow`, `group` or `plan` step. Composition is this one thing.

A child is an execution like any other, with an id that follows from the attempt that it performs, so that starting it
twice starts it once. It is told what its parent is told (cancel, pause), and reports its end as the attempt's result.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from millrace_orchestrator.domain.budgets import remaining_usd, scopes
from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.plan import Plan, PlannedStep
from millrace_orchestrator.domain.reuse import reused_step
from millrace_orchestrator.domain.state import ExecutionState, Work
from millrace_shared import tracing
from millrace_shared.definition.canonical import canonical_json, content_hash
from millrace_shared.definition.errors import DefinitionInvalid
from millrace_shared.definition.plans import validate_plan
from millrace_shared.expressions.errors import BlobNeeded
from millrace_shared.expressions.template import Resolved
from millrace_shared.ids import attempt_key, child_execution_id
from millrace_shared.messages import (
    NOTHING,
    ErrorInfo,
    FinalStatus,
    Parent,
    StartRequest,
    StepResult,
    Usage,
    Use,
)
from millrace_shared.values import Payload

DEPTH_MAX = 500
"""Executions below one another."""
PROBLEMS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ChildRefused(Exception):
    """A child cannot be started: the attempt fails with `error`."""

    error: ErrorInfo


def check_child(draft: Draft, step: PlannedStep) -> None:
    """Raise `ChildRefused` when no child can be started for a step."""
    request = draft.state.request
    if request.parent is not None and request.parent.depth >= DEPTH_MAX:
        problem = f"executions are nested {DEPTH_MAX} deep already, which is the limit"
        raise ChildRefused(ErrorInfo("too_deep", "client_error", problem))
    if step.use is not None and step.use not in request.uses:
        problem = f'workflow "{step.use}" was not known when the execution was accepted'
        raise ChildRefused(ErrorInfo("workflow_not_found", "client_error", problem))


def planned(draft: Draft, resolved: Resolved) -> tuple[str, Payload]:
    """Validate the definition that a `plan` step was given, and have it stored with the decision.

    Returns:
        Its content hash, and the child's input.

    Raises:
        BlobNeeded: the definition is claim-checked.
        ChildRefused: it is not a valid definition.
    """
    below = {ref for pointer, ref in resolved.refs.items() if pointer == "" or pointer.startswith("/plan")}
    if below:
        raise BlobNeeded(frozenset(below))
    given = Payload(
        resolved.data.get("input") or {},
        {pointer.removeprefix("/input"): ref for pointer, ref in resolved.refs.items()},
    )
    surroundings = draft.plan.definition
    try:
        validated = validate_plan(
            resolved.data.get("plan"),
            agents=surroundings.agents,
            secrets=surroundings.secrets,
            inputs=tuple(given.data),
            limits=surroundings.limits,
            defaults=surroundings.defaults,
            uses=draft.state.request.uses,
        )
    except DefinitionInvalid as error:
        shown = "; ".join(str(problem) for problem in error.problems[:PROBLEMS_SHOWN])
        problem = f"the plan is not a valid definition: {shown}"
        raise ChildRefused(ErrorInfo("plan_invalid", "invalid_output", problem)) from error
    document = canonical_json(validated.definition)
    digest = content_hash(document)
    draft.definitions[digest] = document
    return digest, given


def child_request(plan: Plan, state: ExecutionState, step_id: str, item: int | None, work: Work) -> StartRequest:
    """Return the request that starts the child of an attempt; the same whenever it is asked for."""
    request, step = state.request, plan.steps[step_id]
    key = attempt_key(step_id, item, work.attempt)
    own = Use(request.workflow_id, request.workflow_version, request.definition)
    runs = own if step.use is None else request.uses[step.use]
    trace = tracing.trace_id(state.execution_id, request.traceparent)
    root, depth = (state.execution_id, 0) if request.parent is None else (request.parent.root, request.parent.depth)
    return StartRequest(
        execution_id=child_execution_id(state.execution_id, key),
        workspace=request.workspace,
        workflow_id=runs.workflow_id,
        workflow_name=request.workflow_name if step.use is None else step.use.partition("@")[0],
        workflow_version=runs.version,
        definition=work.plan or runs.definition,
        part="/".join(filter(None, (request.part, step_id))) if step.kind == "group" else "",
        requested_at=work.at,
        input=work.input,
        labels=request.labels,
        priority=request.priority,
        requested_by=request.requested_by,
        traceparent=f"00-{trace}-{tracing.attempt_span_id(state.execution_id, key)}-01",
        parent=Parent(
            state.execution_id, step_id, work.attempt, root, depth + 1, item=item, inline=step.kind != "workflow"
        ),
        uses=request.uses,
        deadline=min(state.deadline, work.at + step.timeout_s),
        budget_usd=remaining_usd(plan, state),
        budgets=scopes(plan, state, step),
        reuse=work.reuse,
    )


def brought_along(draft: Draft, step: PlannedStep) -> Payload:
    """Return the results of an earlier child of the step, for its child to take over."""
    reused = reused_step(draft, step.id)
    if reused is None or reused.child is None:
        return NOTHING
    return Payload(msgspec.to_builtins(reused.child, str_keys=True))


def report(state: ExecutionState) -> StepResult | None:
    """Return what an execution that has ended tells its parent; None when it has none."""
    assert state.outcome is not None
    return report_of(
        state.request,
        state.outcome,
        started_at=state.started_at,
        finished_at=state.finished_at,
        output=state.output,
        error=state.error,
        usage=state.spent,
    )


def report_of(
    request: StartRequest,
    status: FinalStatus,
    *,
    started_at: float,
    finished_at: float,
    output: Payload = NOTHING,
    error: ErrorInfo | None = None,
    usage: Usage | None = None,
) -> StepResult | None:
    """Return the end of an execution as the result of the attempt that it performs; None when it has no parent."""
    parent = request.parent
    if parent is None:
        return None
    if status != "completed":
        cause = error or ErrorInfo(f"execution_{status}", status, f"it was {status}")
        error = ErrorInfo(
            cause.code,
            cause.category,
            f"execution {request.execution_id} ended {status}: {cause.message}",
            detail={"execution_id": request.execution_id, "status": status},
        )
    return StepResult(
        execution_id=parent.execution_id,
        step=parent.step,
        attempt=parent.attempt,
        item=parent.item,
        started_at=started_at,
        finished_at=finished_at,
        output=output,
        error=error,
        usage=usage if usage is not None and usage.calls else None,
    )
