"""The ASGI application: routes, problem documents, and the OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from millrace_api.metrics import Measured
from millrace_api.routes import (
    agent_shapes,
    agents,
    budgets,
    dead,
    derivation,
    event_stream,
    executions,
    hooks,
    live,
    operations,
    problems,
    rate_limits,
    shapes,
    steering,
    steering_shapes,
    trigger_shapes,
    triggers,
    usage,
    why,
    workflows,
)
from millrace_api.routes.body_deadline import BodyDeadline
from millrace_api.routes.exchange import PREFIX, Adapters
from millrace_api.routes.executions import start_execution
from millrace_api.routes.express import Express

_OPEN = frozenset({f"{PREFIX}/schema", f"{PREFIX}/hooks/{{token}}"})
"""What needs no API key: a schema that anybody may read, and doors that have keys of their own."""
DESCRIPTION = """
Starts workflows of LLM agents and shows what they did.

Times are UTC (RFC 3339), durations seconds. Failures are RFC 9457 problem documents: switch on `code`.
Send `Authorization: Bearer <api key>` with every request.

Live feeds are WebSockets: `/ws/executions/{id}` (everything of one execution; resume with `?last_event_id=`),
`/ws/workflows/{id}` and `/ws/workflows/{id}/step/{step_id}`. `/api/v1/executions/{id}/stream` is the first of them as
server-sent events.
"""


def build(adapters: Adapters) -> ASGIApp:
    """Return the application that serves `adapters`."""
    app = FastAPI(
        title="Millrace",
        version="1",
        description=DESCRIPTION,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # metrics.py measures; traces come from the log
    )
    app.state.adapters = adapters
    app.include_router(derivation.router)  # first: /executions/bulk/cancel is no execution's
    app.include_router(executions.router)
    app.include_router(event_stream.router)
    app.include_router(steering.router)
    app.include_router(why.router)
    app.include_router(workflows.router)
    app.include_router(agents.router)
    app.include_router(triggers.router)
    app.include_router(hooks.router)
    app.include_router(dead.router)
    app.include_router(rate_limits.router)
    app.include_router(budgets.router)
    app.include_router(usage.router)
    app.include_router(operations.router)
    app.include_router(live.router)
    app.include_router(live.router, prefix=PREFIX)
    problems.install(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    start = next(route for route in executions.router.routes if getattr(route, "endpoint", None) is start_execution)
    return Measured(_WithoutNul(BodyDeadline(Express(app, app, f"{PREFIX}/executions", start))))


class _WithoutNul:
    """Refuses addresses with NUL characters: no store takes them, and every parameter would have to look for them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "\x00" in scope.get("path", "") or b"%00" in scope.get("query_string", b""):
            response = problems.problem("request_invalid", "the address holds a NUL character (%00)")
            if scope["type"] == "websocket":
                await WebSocket(scope, receive, send).send_denial_response(response)
            else:
                await response(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, made once: the generated one, with security and problem documents everywhere."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = document.setdefault("components", {})
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schemas = components.setdefault("schemas", {})
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schemas.update(shapes.EXTRA_SCHEMAS)
        schemas.update(steering_shapes.SCHEMAS)
        schemas.update(trigger_shapes.SCHEMAS)
        schemas.update(agent_shapes.SCHEMAS)
        schemas.update(rate_limits.SCHEMAS)
        schemas.update(budgets.SCHEMAS)
        for path, operations_of_path in document["paths"].items():
            for operation in operations_of_path.values():
                _complete(operation, secured=path.startswith(PREFIX) and path not in _OPEN)
        app.openapi_schema = document
    return app.openapi_schema


def _complete(operation: dict[str, Any], *, secured: bool) -> None:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses = operation["responses"]
    responses.pop("422", None)
    responses["default"] = {"description": "A problem document.", "content": problem}
    if secured:
        operation["security"] = [{"key": []}]
        responses["401"] = {"description": "Not authenticated.", "content": problem}
