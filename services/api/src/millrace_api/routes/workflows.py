"""Workflows: save, look at, archive, and what belongs to one: its versions, executions and metrics."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from millrace_api.domain.filters import (
    ExecutionFilter,
    cursor_of,
    in_utc,
    read_cursor,
    read_sequence_cursor,
    read_statuses,
    sequence_cursor,
)
from millrace_api.domain.measures import measures
from millrace_api.domain.workflows import SOURCE_BYTES_MAX, Draft, render, render_version
from millrace_api.errors import Refused
from millrace_api.identity import Identity
from millrace_api.routes import shapes, workflow_shapes
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
from millrace_api.routes.executions import launch, page_of_executions
from millrace_shared.definition.schema import json_schema

router = APIRouter(prefix=PREFIX, tags=["workflows"])

Ref = Annotated[str, Path(min_length=1, max_length=200, description="Id or name of the workflow.")]
Version = Annotated[int, Path(ge=1, le=2**31 - 1)]


async def _draft(request: Request, caller: Identity) -> Draft:
    source = await read_body(request, SOURCE_BYTES_MAX)
    offered = adapters(request)
    draft = await offered.drafting.draft(source)
    await offered.uses.check(caller.workspace, draft)
    return draft


@router.post(
    "/workflows",
    status_code=201,
    summary="Save a new workflow",
    responses=shapes.json_of(workflow_shapes.WorkflowDetail, 201),
    openapi_extra=workflow_shapes.DEFINITION_BODY,
)
async def create_workflow(request: Request, caller: Caller) -> Response:
    """Save the first version of a workflow. Every mistake in the definition is reported at once."""
    draft = await _draft(request, caller)
    workflow = await adapters(request).workflows.create(caller, draft)
    shown = render(workflow) | {"warnings": list(draft.warnings)}
    return Json(shown, 201, {"Location": f"{PREFIX}/workflows/{workflow.id}"})


@router.post(
    "/workflows/validate",
    summary="Check a definition without saving it",
    responses=shapes.json_of(workflow_shapes.Checked),
    openapi_extra=workflow_shapes.DEFINITION_BODY,
)
async def check_workflow(request: Request, caller: Caller) -> Response:
    """Check a definition: 200, or 422 with every mistake, its place, and what would be right."""
    draft = await _draft(request, caller)
    return Json(
        {
            "valid": True,
            "name": draft.definition.name,
            "content_hash": draft.content_hash,
            "steps": len(draft.definition.steps),
            "warnings": list(draft.warnings),
        }
    )


@router.get("/workflows", summary="List workflows", responses=shapes.json_of(workflow_shapes.WorkflowPage))
async def list_workflows(
    request: Request,
    caller: Caller,
    name: Annotated[str | None, Query(max_length=200, description="Exactly this name.")] = None,
    archived: Annotated[bool, Query(description="Archived ones too.")] = False,
    limit: Limit = LIMIT,
    skip: Skip = 0,
    cursor: Cursor = None,
) -> Response:
    """List workflows at their latest versions, newest first."""
    workflows, total = await adapters(request).workflows.page(
        caller.workspace, archived=archived, name=name, before=read_cursor(cursor), limit=limit, skip=skip
    )
    following = cursor_of(workflows[-1].created_at, workflows[-1].id) if len(workflows) == limit else None
    return page([render(workflow) for workflow in workflows], total, skip, limit, following)


@router.get("/workflows/{ref}", summary="Show a workflow", responses=shapes.json_of(workflow_shapes.WorkflowDetail))
async def show_workflow(request: Request, caller: Caller, ref: Ref) -> Response:
    """Show a workflow at its latest version."""
    return Json(render(await adapters(request).workflows.get(caller.workspace, ref)))


@router.put(
    "/workflows/{ref}",
    summary="Save a new version",
    responses=shapes.json_of(workflow_shapes.WorkflowDetail) | shapes.json_of(workflow_shapes.WorkflowDetail, 201),
    openapi_extra=workflow_shapes.DEFINITION_BODY,
)
async def save_workflow(request: Request, caller: Caller, ref: Ref) -> Response:
    """Save a new version: 201. The same definition again changes nothing: 200, with the version that there is.

    A workflow that does not exist yet is made when the path is its name.
    """
    draft = await _draft(request, caller)
    store = adapters(request).workflows
    try:
        workflow, changed = await store.save(caller, ref, draft)
    except Refused as refusal:
        if refusal.code != "workflow_not_found" or ref != draft.definition.name:
            raise
        try:
            workflow, changed = await store.create(caller, draft), True
        except Refused as lost:  # another request made it a moment ago
            if lost.code != "workflow_exists":
                raise
            workflow, changed = await store.save(caller, ref, draft)
    shown = render(workflow) | {"warnings": list(draft.warnings)}
    return Json(shown, 201 if changed else 200, {"Location": f"{PREFIX}/workflows/{workflow.id}"})


@router.delete("/workflows/{ref}", status_code=204, summary="Archive a workflow", response_class=Response)
async def archive_workflow(request: Request, caller: Caller, ref: Ref) -> Response:
    """Archive a workflow: nothing starts it any more. Executions go on, and everything can still be read."""
    await adapters(request).workflows.archive(caller, ref)
    return Response(status_code=204)


@router.get("/workflows/{ref}/versions", summary="List versions", responses=shapes.json_of(workflow_shapes.VersionPage))
async def list_versions(
    request: Request, caller: Caller, ref: Ref, limit: Limit = LIMIT, skip: Skip = 0, cursor: Cursor = None
) -> Response:
    """List the versions of a workflow, newest first."""
    versions, total = await adapters(request).workflows.versions(
        caller.workspace, ref, read_sequence_cursor(cursor), limit, skip
    )
    following = sequence_cursor(versions[-1].version) if len(versions) == limit else None
    return page([render_version(version) for version in versions], total, skip, limit, following)


@router.get(
    "/workflows/{ref}/versions/{version}",
    summary="Show a version",
    responses=shapes.json_of(workflow_shapes.VersionDetail),
)
async def show_version(request: Request, caller: Caller, ref: Ref, version: Version) -> Response:
    """Show one version with its definition and source."""
    return Json(render_version(await adapters(request).workflows.get(caller.workspace, ref, version)))


@router.post(
    "/workflows/{ref}/execute",
    status_code=202,
    tags=["executions"],
    summary="Start an execution of this workflow",
    responses=shapes.START_RESPONSES,
    openapi_extra=shapes.body("Launch", required=False),
)
async def execute_workflow(request: Request, ref: Ref) -> Response:
    """Start an execution: the same as `POST /executions`, with the workflow in the path."""
    identity = adapters(request).authenticator.identify(request)
    return await launch(request, identity, ref)


@router.get(
    "/workflows/{ref}/executions",
    tags=["executions"],
    summary="List a workflow's executions",
    responses=shapes.json_of(shapes.ExecutionPage),
)
async def list_workflow_executions(
    request: Request,
    caller: Caller,
    ref: Ref,
    status: Annotated[list[str] | None, Query(description="One or more statuses.")] = None,
    limit: Limit = LIMIT,
    skip: Skip = 0,
    cursor: Cursor = None,
) -> Response:
    """List the executions of one workflow, newest first; those that steps of other workflows started, too."""
    workflow_id = await adapters(request).workflows.id_of(caller.workspace, ref)
    chosen = ExecutionFilter(
        workflow_id=workflow_id, statuses=read_statuses(status), scope="workflows", after=read_cursor(cursor)
    )
    return await page_of_executions(request, caller, chosen, limit, skip)


@router.get("/workflows/{ref}/metrics", summary="Measure a workflow", responses=shapes.json_of(workflow_shapes.Metrics))
async def show_metrics(
    request: Request,
    caller: Caller,
    ref: Ref,
    since: Annotated[datetime | None, Query(description="Executions created at this time or later.")] = None,
    until: Annotated[datetime | None, Query(description="Executions created before this time.")] = None,
) -> Response:
    """Count the executions of a workflow, how they ended, how long they took, and what they cost."""
    offered = adapters(request)
    workflow_id = await offered.workflows.id_of(caller.workspace, ref)
    row, failures = await offered.projection.metrics(
        caller.workspace, workflow_id, in_utc(since, ("query", "since")), in_utc(until, ("query", "until"))
    )
    return Json(measures(row, failures))


@router.get("/schema", summary="The definition's JSON Schema", responses={200: {"description": "JSON Schema."}})
async def show_schema() -> Response:
    """Return the JSON Schema of workflow definitions, for editors. It needs no credentials."""
    return Response(_schema(), 200, {"Cache-Control": "public, max-age=3600"}, "application/schema+json")


@cache
def _schema() -> bytes:
    """Return the schema's bytes. Making them takes milliseconds, and anybody may ask."""
    return msgspec.json.encode(json_schema())
