"""What the api measures, and the ASGI layer that does it.

| metric | labels | meaning |
|---|---|---|
| `millrace_api_requests_total` | method, route, status | requests answered, by route template |
| `millrace_api_request_seconds` | method, route | time to the last byte of the answer |
| `millrace_api_executions_accepted_total` | | executions that became durable through this process |
| `millrace_api_websockets_open` | | open WebSockets |
| `millrace_api_triggers_total` | kind, outcome | triggers `fired`, `repeated`, `filtered`, `failed` or `missed` |

Labels are bounded: routes are templates (`/api/v1/executions/{execution_id}`), and what matched none is `unmatched`.
"""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})

_requests = Counter("millrace_api_requests", "Requests answered.", ["method", "route", "status"])
_seconds = Histogram(
    "millrace_api_request_seconds",
    "Time to the last byte of the answer.",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
executions_accepted = Counter("millrace_api_executions_accepted", "Executions that became durable.")
triggers_total = Counter("millrace_api_triggers", "What came of triggers.", ["kind", "outcome"])
_websockets = Gauge("millrace_api_websockets_open", "Open WebSockets.")

__all__ = ["REGISTRY", "Measured", "executions_accepted", "triggers_total"]


class Measured:
    """Counts and times requests. Plain ASGI: a request pays two clock reads and two dictionary look-ups."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._counters: dict[tuple[str, str, int], Any] = {}
        self._histograms: dict[tuple[str, str], Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket."""
        if scope["type"] == "http":
            await self._request(scope, receive, send)
        elif scope["type"] == "websocket":
            _websockets.inc()
            try:
                await self._app(scope, receive, send)
            finally:
                _websockets.dec()
        else:
            await self._app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        status = 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            self._count(scope, status, time.perf_counter() - began)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        counter = self._counters.get((method, route, status))
        if counter is None:
            counter = self._counters[method, route, status] = _requests.labels(method, route, status)
        counter.inc()
        histogram = self._histograms.get((method, route))
        if histogram is None:
            histogram = self._histograms[method, route] = _seconds.labels(method, route)
        histogram.observe(seconds)
