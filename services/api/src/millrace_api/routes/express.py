"""The short way to `POST /executions`.

Accepting an execution costs the bus and us about 0.2 ms; the framework's routing, dependencies and exit stacks would
add as much again, for a route that has no parameters of theirs. So this layer hands the request straight to the
function that the framework would have called (`benchmarks/post.py` measures the difference). The route stays
registered as well: the OpenAPI document is generated from it.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from millrace_api.routes.executions import start_execution
from millrace_api.routes.problems import response_of


class Express:
    """Serves one route itself and leaves everything else to the application.

    Args:
        app: the application; requests see it as theirs.
        inner: what serves everything else.
        path: the path of `start_execution`.
        route: its route, by whose path it is measured.
    """

    def __init__(self, app: FastAPI, inner: ASGIApp, path: str, route: BaseRoute) -> None:
        self._app = app
        self._inner = inner
        self._path = path
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._inner(scope, receive, send)
            return
        scope["app"] = self._app
        scope["route"] = self._route
        try:
            response = await start_execution(Request(scope, receive))
        except Exception as error:  # noqa: BLE001  as the framework does: every failure has an answer
            response = response_of(error, f"POST {self._path}")
        await response(scope, receive, send)
