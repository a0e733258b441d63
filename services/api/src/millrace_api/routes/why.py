"""What an execution waits for, and its graph."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from millrace_api.domain.graphs import graph
from millrace_api.domain.rendering import timestamp
from millrace_api.domain.why import sentence
from millrace_api.routes import shapes, why_shapes
from millrace_api.routes.exchange import PREFIX, Caller, Json, adapters

router = APIRouter(prefix=PREFIX, tags=["executions"])


@router.get(
    "/executions/{execution_id}/why",
    summary="Explain why an execution has not ended",
    responses=shapes.json_of(why_shapes.Why),
)
async def explain_execution(request: Request, caller: Caller, execution_id: str) -> Response:
    """Say what an execution waits for, one sentence for each thing; for one that has ended, how it ended.

    `message` is the answer in a sentence. Whatever stands below a step, child executions included, is explained too.
    """
    found, reasons = await adapters(request).explainer.why(caller.workspace, execution_id)
    return Json(
        {
            "execution_id": execution_id,
            "status": found.row["status"],
            "message": sentence(reasons),
            "reasons": [reason.document() for reason in reasons],
            "as_of": timestamp(datetime.now(UTC)),
        }
    )


@router.get(
    "/executions/{execution_id}/graph",
    summary="Show an execution as a graph",
    responses=shapes.json_of(why_shapes.Graph),
)
async def show_graph(request: Request, caller: Caller, execution_id: str) -> Response:
    """Show the steps of an execution as nodes and what they need as edges, each with how far it is.

    A step that another execution performs names it: its graph is one request away. While the definition cannot be read
    there are only the steps that were reached, and no edges.
    """
    offered = adapters(request)
    found = await offered.executions.get(caller.workspace, execution_id)
    counts = await offered.explainer.counts(found)
    return Json(graph(found.row, found.steps, found.definition, counts))
