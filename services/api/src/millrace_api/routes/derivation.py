"""Executions made from earlier ones, two of them compared, and the same for many at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from millrace_api.adapters.acceptance import Accepted
from millrace_api.adapters.bulk import BulkOutcome
from millrace_api.domain.compare import compare
from millrace_api.domain.filters import ExecutionFilter, Status
from millrace_api.domain.launch import BODY_BYTES_MAX
from millrace_api.domain.requests import BULK_DEFAULT, STEERING_BYTES_MAX, Again, Bulk, Fork, bulk_filter, read
from millrace_api.identity import Identity
from millrace_api.routes import shapes
from millrace_api.routes import steering_shapes as answers
from millrace_api.routes.exchange import PREFIX, Caller, Json, adapters, read_body
from millrace_api.routes.executions import accepted_answer

router = APIRouter(prefix=PREFIX, tags=["steering"])
Wanted = TypeVar("Wanted")

CANCELLED: tuple[Status, ...] = ("pending", "running", "paused")
RETRIED: tuple[Status, ...] = ("failed", "timeout")


@router.post(
    "/executions/bulk/cancel",
    summary="Cancel many executions",
    responses=shapes.json_of(answers.BulkAnswer),
    openapi_extra=shapes.body("Bulk"),
)
async def cancel_many(request: Request, caller: Caller) -> Response:
    """Ask the executions that a filter finds to stop: the newest `limit` of those that are projected."""
    wanted, chosen = await _chosen(request, caller, CANCELLED)
    dry_run = bool(wanted.dry_run)
    outcome = await adapters(request).bulk.cancel(
        caller, chosen, wanted.limit or BULK_DEFAULT, wanted.reason or "", dry_run=dry_run
    )
    return _told(outcome, dry_run=dry_run)


@router.post(
    "/executions/bulk/retry",
    summary="Retry many executions",
    responses=shapes.json_of(answers.BulkAnswer),
    openapi_extra=shapes.body("Bulk"),
)
async def retry_many(request: Request, caller: Caller) -> Response:
    """Retry the executions that a filter finds, each at most once: the request may be repeated safely."""
    wanted, chosen = await _chosen(request, caller, RETRIED)
    dry_run = bool(wanted.dry_run)
    outcome = await adapters(request).bulk.retry(caller, chosen, wanted.limit or BULK_DEFAULT, dry_run=dry_run)
    return _told(outcome, dry_run=dry_run)


@router.post(
    "/executions/{execution_id}/retry",
    status_code=202,
    summary="Retry a failed execution",
    responses=answers.DERIVED,
    openapi_extra=shapes.body("Again", required=False),
)
async def retry_execution(request: Request, caller: Caller, execution_id: str) -> Response:
    """Start an execution that goes on where this one failed: what had completed is taken over, and not paid again."""
    wanted = read(Again, await read_body(request, STEERING_BYTES_MAX))
    return await _derived(request, caller, execution_id, wanted, adapters(request).derivation.retry)


@router.post(
    "/executions/{execution_id}/replay",
    status_code=202,
    summary="Replay an execution",
    responses=answers.DERIVED,
    openapi_extra=shapes.body("Again", required=False),
)
async def replay_execution(request: Request, caller: Caller, execution_id: str) -> Response:
    """Start an execution of the same version with the same input. Nothing is taken over."""
    wanted = read(Again, await read_body(request, STEERING_BYTES_MAX))
    return await _derived(request, caller, execution_id, wanted, adapters(request).derivation.replay)


@router.post(
    "/executions/{execution_id}/fork",
    status_code=202,
    summary="Fork an execution from a step",
    responses=answers.DERIVED,
    openapi_extra=shapes.body("Fork"),
)
async def fork_execution(request: Request, caller: Caller, execution_id: str) -> Response:
    """Start an execution that has what came before a step from this one, and runs that step and the rest anew."""
    wanted = read(Fork, await read_body(request, BODY_BYTES_MAX))
    return await _derived(request, caller, execution_id, wanted, adapters(request).derivation.fork)


@router.get(
    "/executions/{execution_id}/compare/{other_id}",
    summary="Compare two executions",
    responses=shapes.json_of(answers.Comparison),
)
async def compare_executions(request: Request, caller: Caller, execution_id: str, other_id: str) -> Response:
    """Show what differs between two executions: input, results, and each step's status, output, time and cost."""
    executions = adapters(request).executions
    a = await executions.get(caller.workspace, execution_id)
    b = await executions.get(caller.workspace, other_id)
    return Json(compare((a.row, a.steps, a.definition), (b.row, b.steps, b.definition)))


async def _derived(
    request: Request,
    caller: Identity,
    execution_id: str,
    wanted: Wanted,
    derive: Callable[[Identity, str, Wanted, str | None], Awaitable[Accepted]],
) -> Response:
    accepted = await derive(caller, execution_id, wanted, request.headers.get("traceparent"))
    return await accepted_answer(request, caller, accepted)


async def _chosen(request: Request, caller: Identity, statuses: tuple[Status, ...]) -> tuple[Bulk, ExecutionFilter]:
    wanted = read(Bulk, await read_body(request, STEERING_BYTES_MAX))
    workflow_id = None
    if wanted.workflow is not None:
        workflow_id = await adapters(request).workflows.id_of(caller.workspace, wanted.workflow)
    return wanted, bulk_filter(wanted, workflow_id, statuses)


def _told(outcome: BulkOutcome, *, dry_run: bool) -> Response:
    return Json(
        {"matched": outcome.matched, "done": outcome.done, "refused": outcome.refused, "dry_run": dry_run},
    )
