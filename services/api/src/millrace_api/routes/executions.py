"""Executions: start, list, look at, cancel."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from millrace_api.adapters.acceptance import Accepted, Candidate
from millrace_api.adapters.executions import Execution
from millrace_api.domain import rendering
from millrace_api.domain.filters import (
    ExecutionFilter,
    cursor_of,
    in_utc,
    read_cursor,
    read_labels,
    read_sequence_cursor,
    read_statuses,
    sequence_cursor,
)
from millrace_api.domain.launch import BODY_BYTES_MAX, decode_launch, wait_seconds
from millrace_api.domain.requests import Cancel, read
from millrace_api.errors import Refused
from millrace_api.identity import Identity
from millrace_api.routes import shapes
from millrace_api.routes.exchange import (
    LIMIT,
    PREFIX,
    Caller,
    Cursor,
    Json,
    Limit,
    Skip,
    adapters,
    page,
    read_body,
)
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import encode
from millrace_shared.execution.tables import NO_ITEM
from millrace_shared.ids import new_id
from millrace_shared.messages import CancelRequest
from millrace_shared.values import Payload

router = APIRouter(prefix=PREFIX, tags=["executions"])

CANCEL_BODY_BYTES_MAX = 16 * 1024
EVENTS_DEFAULT = 100
EVENTS_MAX = 1_000
ATTEMPTS_MAX = 1_000
"""Attempts that are shown of one step."""


@router.post(
    "/executions",
    status_code=202,
    summary="Start an execution",
    responses=shapes.START_RESPONSES,
    openapi_extra=shapes.body("Launch"),
)
async def start_execution(request: Request) -> Response:
    """Start an execution of a workflow.

    202 means that it is durable. With an `execution_name` the request may be repeated safely: the repeat answers 200
    with the first execution. With `?wait=<seconds>` (at most 60) the answer comes when the execution has ended, 200
    with its detail, or 202 when the time is up.
    """
    # By hand rather than by dependencies: this path is taken hundreds of times a second.
    identity = adapters(request).authenticator.identify(request)
    return await launch(request, identity, None)


async def launch(request: Request, identity: Identity, workflow: str | None) -> Response:
    """Start an execution of `workflow`, or of the one that the body names."""
    offered = adapters(request)
    body = await read_body(request, BODY_BYTES_MAX)
    wait_s = wait_seconds(request.query_params.get("wait")) if request.scope["query_string"] else 0.0
    wanted = decode_launch(body, workflow)
    candidate = await offered.acceptance.prepare(identity, wanted, len(body), request.headers.get("traceparent"))
    return await store_and_answer(request, identity, candidate, wait_s)


async def store_and_answer(request: Request, identity: Identity, candidate: Candidate, wait_s: float) -> Response:
    """Make a start durable, and answer with the execution: at once, or when it has ended or `wait_s` are over."""
    offered = adapters(request)
    if wait_s:
        outcome = await offered.waiting.store_and_wait(candidate, wait_s)
        if outcome.execution is not None:
            found = outcome.execution
            location = {"Location": f"{PREFIX}/executions/{found.row['id']}"}
            return Json(rendering.detail(found.row, found.steps, found.definition), headers=location)
        return await accepted_answer(request, identity, outcome.accepted, 202)
    return await accepted_answer(request, identity, await offered.acceptance.store(candidate))


async def accepted_answer(
    request: Request, identity: Identity, accepted: Accepted, status: int | None = None
) -> Response:
    """Answer with an execution that is durable: 202, or 200 if it was before, unless `status` says otherwise."""
    stored = accepted.request
    shown = rendering.accepted(stored.execution_id, stored.execution_name, stored.workflow_id, stored.requested_at)
    if not accepted.first:
        found = await adapters(request).executions.get(identity.workspace, stored.execution_id)
        shown["status"] = found.row["status"]
    status = status or (202 if accepted.first else 200)
    return Json(shown, status, {"Location": f"{PREFIX}/executions/{stored.execution_id}"})


@router.get("/executions", summary="List executions", responses=shapes.json_of(shapes.ExecutionPage))
async def list_executions(
    request: Request,
    caller: Caller,
    workflow_id: Annotated[str | None, Query(max_length=200, description="Id or name of a workflow.")] = None,
    status: Annotated[list[str] | None, Query(description="One or more statuses.")] = None,
    label: Annotated[list[str] | None, Query(description="`name:value`, or `name` for any value.")] = None,
    execution_name: Annotated[str | None, Query(max_length=200)] = None,
    started_after: Annotated[datetime | None, Query(description="Started at this time or later.")] = None,
    started_before: Annotated[datetime | None, Query(description="Started before this time.")] = None,
    parent_id: Annotated[
        str | None, Query(max_length=64, description="Of this execution's steps: those that perform them.")
    ] = None,
    include: Annotated[
        Literal["children"] | None, Query(description="`children`: those of sub-workflows, groups and plans, too.")
    ] = None,
    sort: Annotated[Literal["-created_at", "created_at"], Query(description="Newest or oldest first.")] = "-created_at",
    limit: Limit = LIMIT,
    skip: Skip = 0,
    cursor: Cursor = None,
) -> Response:
    """List executions as far as they are projected, newest first; those at the top unless children are asked for."""
    chosen = ExecutionFilter(
        workflow_id=workflow_id and await adapters(request).workflows.id_of(caller.workspace, workflow_id),
        statuses=read_statuses(status),
        labels=read_labels(label),
        execution_name=execution_name,
        started_after=in_utc(started_after, ("query", "started_after")),
        started_before=in_utc(started_before, ("query", "started_before")),
        parent_id=parent_id,
        scope="top" if include is None else "all",
        sort=sort,
        after=read_cursor(cursor),
    )
    return await page_of_executions(request, caller, chosen, limit, skip)


async def page_of_executions(
    request: Request, caller: Identity, chosen: ExecutionFilter, limit: int, skip: int
) -> Response:
    """Answer with a page of executions."""
    rows, total = await adapters(request).projection.page(caller.workspace, chosen, limit, skip)
    following = cursor_of(rows[-1]["created_at"], rows[-1]["id"]) if len(rows) == limit else None
    return page([rendering.listed(row) for row in rows], total, skip, limit, following)


@router.get("/executions/{execution_id}", summary="Show an execution", responses=shapes.json_of(shapes.ExecutionDetail))
async def show_execution(request: Request, caller: Caller, execution_id: str) -> Response:
    """Show an execution with its steps in the author's order, those that have not run yet included."""
    found = await adapters(request).executions.get(caller.workspace, execution_id)
    return Json(rendering.detail(found.row, found.steps, found.definition))


@router.get(
    "/executions/{execution_id}/timeline",
    summary="Show when each step ran",
    responses=shapes.json_of(shapes.Timeline),
)
async def show_timeline(request: Request, caller: Caller, execution_id: str) -> Response:
    """Show the steps of an execution on a time line. Long values are cut, and say so."""
    found = await adapters(request).executions.get(caller.workspace, execution_id)
    return Json(rendering.timeline(found.row, found.steps, found.definition))


@router.get(
    "/executions/{execution_id}/steps/{step_id}",
    summary="Show a step with its whole values",
    responses=shapes.json_of(shapes.StepDetail),
)
async def show_step(
    request: Request,
    caller: Caller,
    execution_id: str,
    step_id: str,
    item: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="One item of a `for_each` step.")] = None,
) -> Response:
    """Show a step of an execution, large values included; for a `for_each` step also how each item fared."""
    offered = adapters(request)
    found = await offered.executions.get(caller.workspace, execution_id)
    row = await _step_row(request, found, execution_id, step_id, NO_ITEM if item is None else item)
    shown = rendering.step_detail(row, found.definition)
    for name, column in (("input_data", "input"), ("output_data", "output")):
        document = row.get(column)
        if document is not None and document.get("refs"):
            shown[name] = await offered.blobs.unpack(caller.workspace, msgspec.convert(document, Payload))
    shown["attempt"] = row.get("attempt") or 0
    shown["attempts"] = [rendering.attempt_detail(one) for one in await _attempts(request, found, row)]
    if item is None and row.get("item_count") is not None:
        items: Sequence[rendering.Row]
        if found.view is not None:
            items = [one for one in found.view.steps if one["step"] == step_id and one["item"] != NO_ITEM]
        else:
            items = await offered.projection.items(execution_id, step_id)
        shown["item_count"] = row["item_count"]
        shown["items"] = [rendering.item_detail(one) for one in items]
    return Json(shown)


async def _attempts(request: Request, found: Execution, row: rendering.Row) -> Sequence[rendering.Row]:
    step, item = row["step"], row.get("item", NO_ITEM)
    if found.view is not None:
        ended = [one for one in found.view.attempts if (one["step"], one["item"]) == (step, item)]
        return ended[:ATTEMPTS_MAX]
    return await adapters(request).projection.attempts(found.row["id"], step, item, ATTEMPTS_MAX)


async def _step_row(request: Request, found: Execution, execution_id: str, step_id: str, item: int) -> rendering.Row:
    row: rendering.Row | None
    if found.view is not None:
        row = found.view.step(step_id, None if item == NO_ITEM else item)
    elif item == NO_ITEM:
        row = next((step for step in found.steps if step["step"] == step_id), None)
    else:
        row = await adapters(request).projection.step(execution_id, step_id, item)
    if row is None and item == NO_ITEM:
        steps = rendering.in_order(found.row, found.steps, found.definition)
        row = next((step for step in steps if step["step"] == step_id), None)
    if row is None:
        what = f'step "{step_id[:64]}"' if item == NO_ITEM else f'item {item} of a step "{step_id[:64]}"'
        raise Refused("step_not_found", f"execution {execution_id} has no {what}")
    return row


@router.get("/executions/{execution_id}/events", summary="List events", responses=shapes.json_of(shapes.EventPage))
async def list_events(
    request: Request,
    caller: Caller,
    execution_id: str,
    limit: Annotated[
        int, Query(ge=1, le=EVENTS_MAX, description="Events of a page; some more may come.")
    ] = EVENTS_DEFAULT,
    cursor: Cursor = None,
) -> Response:
    """List everything that happened to an execution, oldest first: its log, as it was written.

    410 when the log has expired: the execution's detail and time line are kept for longer.
    """
    offered = adapters(request)
    await offered.executions.check_log(caller.workspace, execution_id)
    after = read_sequence_cursor(cursor) or 0
    events, following = await offered.event_log.page(execution_id, after, limit)
    next_cursor = None if following is None else sequence_cursor(following)
    return Json({"items": events, "limit": limit, "next_cursor": next_cursor})


@router.post(
    "/executions/{execution_id}/cancel",
    status_code=202,
    summary="Cancel an execution",
    responses=shapes.CANCEL_RESPONSES,
    openapi_extra=shapes.body("Cancel", required=False),
)
async def cancel_execution(request: Request, caller: Caller, execution_id: str) -> Response:
    """Ask an execution to stop: nothing new starts but its cleanup steps. A second request stops those too.

    409 when it has ended already.
    """
    offered = adapters(request)
    body = await read_body(request, CANCEL_BODY_BYTES_MAX)
    wanted = read(Cancel, body)
    status = await offered.executions.ended(caller.workspace, execution_id)
    if status is not None:
        raise Refused("execution_already_finished", f"the execution has ended already: {status}")
    message = CancelRequest(execution_id, id=new_id(), reason=wanted.reason or "", requested_by=caller.subject)
    await offered.inbox.publish(Outgoing(subjects.inbox(execution_id), encode(message)))
    return Json({"execution_id": execution_id, "status": "cancelling"}, 202)
