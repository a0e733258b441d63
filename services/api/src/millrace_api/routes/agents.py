"""Agents that are saved by themselves: save, look at, archive, and run one alone."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from millrace_api.domain.agents import AgentDraft, decode_invocation, render, render_version
from millrace_api.domain.filters import (
    ExecutionFilter,
    cursor_of,
    read_cursor,
    read_sequence_cursor,
    read_statuses,
    sequence_cursor,
)
from millrace_api.domain.launch import BODY_BYTES_MAX, wait_seconds
from millrace_api.domain.workflows import SOURCE_BYTES_MAX
from millrace_api.errors import Refused
from millrace_api.routes import agent_shapes, shapes
from millrace_api.routes.exchange import LIMIT, PREFIX, Caller, Cursor, Json, Limit, Skip, adapters, page, read_body
from millrace_api.routes.executions import page_of_executions, store_and_answer

router = APIRouter(prefix=PREFIX, tags=["agents"])

Ref = Annotated[str, Path(min_length=1, max_length=200, description="Id or name of the agent.")]
Version = Annotated[int, Path(ge=1, le=2**31 - 1)]


async def _draft(request: Request) -> AgentDraft:
    return await adapters(request).drafting.agent(await read_body(request, SOURCE_BYTES_MAX))


@router.post(
    "/agents",
    status_code=201,
    summary="Save a new agent",
    responses=shapes.json_of(agent_shapes.AgentDetail, 201),
    openapi_extra=agent_shapes.AGENT_BODY,
)
async def create_agent(request: Request, caller: Caller) -> Response:
    """Save the first version of an agent. Every mistake in it is reported at once."""
    draft = await _draft(request)
    saved = await adapters(request).agents.create(caller, draft)
    shown = render(saved) | {"warnings": list(draft.warnings)}
    return Json(shown, 201, {"Location": f"{PREFIX}/agents/{saved.id}"})


@router.post(
    "/agents/validate",
    summary="Check an agent without saving it",
    responses=shapes.json_of(agent_shapes.CheckedAgent),
    openapi_extra=agent_shapes.AGENT_BODY,
)
async def check_agent(request: Request, caller: Caller) -> Response:  # noqa: ARG001  # who calls must be known
    """Check an agent: 200, or 422 with every mistake, its place, and what would be right."""
    draft = await _draft(request)
    shown = {"valid": True, "name": draft.name, "content_hash": draft.content_hash, "warnings": list(draft.warnings)}
    return Json(shown)


@router.get("/agents", summary="List agents", responses=shapes.json_of(agent_shapes.AgentPage))
async def list_agents(
    request: Request,
    caller: Caller,
    name: Annotated[str | None, Query(max_length=200, description="Exactly this name.")] = None,
    archived: Annotated[bool, Query(description="Archived ones too.")] = False,
    limit: Limit = LIMIT,
    skip: Skip = 0,
    cursor: Cursor = None,
) -> Response:
    """List agents at their latest versions, newest first."""
    saved, total = await adapters(request).agents.page(
        caller.workspace, archived=archived, name=name, before=read_cursor(cursor), limit=limit, skip=skip
    )
    following = cursor_of(saved[-1].created_at, saved[-1].id) if len(saved) == limit else None
    return page([render(one) for one in saved], total, skip, limit, following)


@router.get("/agents/{ref}", summary="Show an agent", responses=shapes.json_of(agent_shapes.AgentDetail))
async def show_agent(request: Request, caller: Caller, ref: Ref) -> Response:
    """Show an agent at its latest version."""
    return Json(render(await adapters(request).agents.get(caller.workspace, ref)))


@router.put(
    "/agents/{ref}",
    summary="Save a new version of an agent",
    responses=shapes.json_of(agent_shapes.AgentDetail) | shapes.json_of(agent_shapes.AgentDetail, 201),
    openapi_extra=agent_shapes.AGENT_BODY,
)
async def save_agent(request: Request, caller: Caller, ref: Ref) -> Response:
    """Save a new version: 201. The same agent again changes nothing: 200, with the version that there is.

    An agent that does not exist yet is made when the path is its name. Workflows that use it without a version have
    the new one from their next execution on.
    """
    draft = await _draft(request)
    store = adapters(request).agents
    try:
        saved, changed = await store.save(caller, ref, draft)
    except Refused as refusal:
        if refusal.code != "agent_not_found" or ref != draft.name:
            raise
        try:
            saved, changed = await store.create(caller, draft), True
        except Refused as lost:  # another request made it a moment ago
            if lost.code != "agent_exists":
                raise
            saved, changed = await store.save(caller, ref, draft)
    shown = render(saved) | {"warnings": list(draft.warnings)}
    return Json(shown, 201 if changed else 200, {"Location": f"{PREFIX}/agents/{saved.id}"})


@router.delete("/agents/{ref}", status_code=204, summary="Archive an agent", response_class=Response)
async def archive_agent(request: Request, caller: Caller, ref: Ref) -> Response:
    """Archive an agent: nothing that uses it starts any more. Executions go on, and everything can still be read."""
    await adapters(request).agents.archive(caller, ref)
    return Response(status_code=204)


@router.get(
    "/agents/{ref}/versions",
    summary="List versions of an agent",
    responses=shapes.json_of(agent_shapes.AgentVersionPage),
)
async def list_agent_versions(
    request: Request, caller: Caller, ref: Ref, limit: Limit = LIMIT, skip: Skip = 0, cursor: Cursor = None
) -> Response:
    """List the versions of an agent, newest first."""
    versions, total = await adapters(request).agents.versions(
        caller.workspace, ref, read_sequence_cursor(cursor), limit, skip
    )
    following = sequence_cursor(versions[-1].version) if len(versions) == limit else None
    return page([render_version(one) for one in versions], total, skip, limit, following)


@router.get(
    "/agents/{ref}/versions/{version}",
    summary="Show a version of an agent",
    responses=shapes.json_of(agent_shapes.AgentVersionDetail),
)
async def show_agent_version(request: Request, caller: Caller, ref: Ref, version: Version) -> Response:
    """Show one version of an agent with what it is."""
    return Json(render_version(await adapters(request).agents.get(caller.workspace, ref, version)))


@router.post(
    "/agents/{ref}/invoke",
    status_code=202,
    tags=["executions"],
    summary="Run an agent alone",
    responses=shapes.START_RESPONSES,
    openapi_extra=shapes.body("Invocation"),
)
async def invoke_agent(request: Request, caller: Caller, ref: Ref) -> Response:
    """Start an execution of one step, which asks the agent; its result is `answer`.

    What is said of `POST /executions` holds here, too: `execution_name` makes it safe to repeat, and `?wait=<seconds>`
    answers when it has ended. The execution's workflow id, name and version are the agent's.
    """
    offered = adapters(request)
    wanted = decode_invocation(await read_body(request, BODY_BYTES_MAX))
    wait_s = wait_seconds(request.query_params.get("wait"))
    candidate = await offered.invocations.prepare(caller, ref, wanted, request.headers.get("traceparent"))
    return await store_and_answer(request, caller, candidate, wait_s)


@router.get(
    "/agents/{ref}/executions",
    tags=["executions"],
    summary="List executions of an agent alone",
    responses=shapes.json_of(shapes.ExecutionPage),
)
async def list_agent_executions(
    request: Request,
    caller: Caller,
    ref: Ref,
    status: Annotated[list[str] | None, Query(description="One or more statuses.")] = None,
    limit: Limit = LIMIT,
    skip: Skip = 0,
    cursor: Cursor = None,
) -> Response:
    """List the executions that `invoke` started, newest first."""
    agent_id = await adapters(request).agents.id_of(caller.workspace, ref)
    chosen = ExecutionFilter(workflow_id=agent_id, statuses=read_statuses(status), after=read_cursor(cursor))
    return await page_of_executions(request, caller, chosen, limit, skip)
