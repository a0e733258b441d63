"""/healthz, /readyz and /metrics, on the same port as everything else and without credentials."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from millrace_api.metrics import REGISTRY
from millrace_api.routes.exchange import Json, adapters
from millrace_shared.ops import readiness

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Whether the process is alive")
async def health() -> Response:
    """Answer while the process is alive."""
    return Json({"status": "alive"})


@router.get("/readyz", summary="Whether the process can serve")
async def ready(request: Request) -> Response:
    """Check every dependency: 200 when all answer, 503 while one does not."""
    passed, reports = await readiness(adapters(request).checks)
    return Json({"status": "ready" if passed else "not ready", "checks": reports}, 200 if passed else 503)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics() -> Response:
    """Return the metrics of this process as Prometheus text."""
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
