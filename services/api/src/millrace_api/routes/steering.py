"""Steering executions that run: pause and resume, signals, approvals, breakpoints.

Every answer is 200 once the request took effect, and 202 when it is durable and that took longer than some seconds.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from millrace_api.domain.requests import STEERING_BYTES_MAX, Continue, Pause, Resume, Signal, Verdict, read
from millrace_api.domain.steering import Pausing, Resuming, Signalling, Wish
from millrace_api.domain.step_steering import Continuing, Deciding
from millrace_api.routes import shapes
from millrace_api.routes import steering_shapes as answers
from millrace_api.routes.exchange import PREFIX, Caller, Json, adapters, read_body
from millrace_shared.ids import new_id
from millrace_shared.messages import NOTHING
from millrace_shared.values import Payload

router = APIRouter(prefix=PREFIX, tags=["steering"])


@router.post(
    "/executions/{execution_id}/pause",
    summary="Pause an execution",
    responses=answers.either(answers.Steered, answers.Steering),
    openapi_extra=shapes.body("Pause", required=False),
)
async def pause_execution(request: Request, caller: Caller, execution_id: str) -> Response:
    """Let nothing new start until it is resumed. Steps that run may finish."""
    wanted = read(Pause, await read_body(request, STEERING_BYTES_MAX))
    wish = Pausing(execution_id, new_id(), caller.subject, wanted.reason or "")
    return await _grant(request, caller.workspace, execution_id, wish)


@router.post(
    "/executions/{execution_id}/resume",
    summary="Resume an execution",
    responses=answers.either(answers.Steered, answers.Steering),
    openapi_extra=shapes.body("Resume", required=False),
)
async def resume_execution(request: Request, caller: Caller, execution_id: str) -> Response:
    """Let a paused execution go on. The time of the pause does not count against its timeout."""
    read(Resume, await read_body(request, STEERING_BYTES_MAX))
    wish = Resuming(execution_id, new_id(), caller.subject)
    return await _grant(request, caller.workspace, execution_id, wish)


@router.post(
    "/executions/{execution_id}/signal",
    summary="Send a signal",
    responses=answers.either(answers.Signalled, answers.Signalled),
    openapi_extra=shapes.body("Signal"),
)
async def signal_execution(request: Request, caller: Caller, execution_id: str) -> Response:
    """Tell an execution what one of its steps waits for, or will. Give an `id` to be able to repeat the request."""
    wanted = read(Signal, await read_body(request, STEERING_BYTES_MAX))
    data = await _packed(request, caller.workspace, wanted.data)
    wish = Signalling(execution_id, wanted.id or new_id(), caller.subject, wanted.name, data)
    return await _grant(request, caller.workspace, execution_id, wish)


@router.post(
    "/executions/{execution_id}/steps/{step_id}/approve",
    summary="Approve",
    responses=answers.either(answers.Decided, answers.Decided),
    openapi_extra=shapes.body("Verdict", required=False),
)
async def approve_step(request: Request, caller: Caller, execution_id: str, step_id: str) -> Response:
    """Approve what an approval step asks. The first answer counts."""
    return await _decide(request, caller, execution_id, step_id, approved=True)


@router.post(
    "/executions/{execution_id}/steps/{step_id}/reject",
    summary="Reject",
    responses=answers.either(answers.Decided, answers.Decided),
    openapi_extra=shapes.body("Verdict", required=False),
)
async def reject_step(request: Request, caller: Caller, execution_id: str, step_id: str) -> Response:
    """Reject what an approval step asks. The first answer counts."""
    return await _decide(request, caller, execution_id, step_id, approved=False)


@router.post(
    "/executions/{execution_id}/steps/{step_id}/continue",
    summary="Continue after a breakpoint",
    responses=answers.either(answers.Decided, answers.Decided),
    openapi_extra=shapes.body("Continue", required=False),
)
async def continue_step(request: Request, caller: Caller, execution_id: str, step_id: str) -> Response:
    """Let a step go on that a breakpoint holds, with its own resolved input or an edited one."""
    wanted = read(Continue, await read_body(request, STEERING_BYTES_MAX))
    edited = wanted.input is not None
    data = await _packed(request, caller.workspace, wanted.input)
    wish = Continuing(execution_id, new_id(), caller.subject, step_id, wanted.item, edited, data)
    return await _grant(request, caller.workspace, execution_id, wish)


async def _decide(request: Request, caller: Caller, execution_id: str, step_id: str, *, approved: bool) -> Response:
    wanted = read(Verdict, await read_body(request, STEERING_BYTES_MAX))
    wish = Deciding(
        execution_id,
        new_id(),
        caller.subject,
        step_id,
        wanted.item,
        approved,
        wanted.note or "",
        await _packed(request, caller.workspace, wanted.data),
        wanted.data,
    )
    return await _grant(request, caller.workspace, execution_id, wish)


async def _packed(request: Request, workspace: str, data: Any) -> Payload:
    return NOTHING if data is None else await adapters(request).blobs.pack(workspace, data)


async def _grant(request: Request, workspace: str, execution_id: str, wish: Wish) -> Response:
    answer, took_effect = await adapters(request).steering.grant(workspace, execution_id, wish)
    return Json(answer, 200 if took_effect else 202)
