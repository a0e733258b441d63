"""Every failure as a problem document, the framework's own included, for requests and for WebSocket handshakes."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import asyncpg
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from millrace_api.domain.problems import CONTENT_TYPE, PROBLEMS, document
from millrace_api.errors import Mistake, Refused, Unavailable
from millrace_shared.blobs import BlobUnavailable
from millrace_shared.errors import BusUnavailable, DatabaseUnavailable, UpgradeNeeded
from millrace_shared.postgres import is_unavailable

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
_TOKEN = re.compile(r"(/hooks/).+")
"""The path of a webhook opens it, so it is written down nowhere."""
_FRAMEWORK_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}


def problem(code: str, detail: str, errors: Sequence[Mistake] = (), extra: dict[str, Any] | None = None) -> Response:
    """Return a problem document as a response."""
    status = PROBLEMS[code].status
    headers: dict[str, str] = {}
    if status == 401:  # noqa: PLR2004
        headers["WWW-Authenticate"] = 'Bearer realm="millrace"'
    if status == 408:  # noqa: PLR2004
        headers["Connection"] = "close"  # the rest of the body may be on its way for ever
    if status == 503:  # noqa: PLR2004
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return Response(document(code, detail, errors, extra), status, headers, CONTENT_TYPE)


def install(app: FastAPI) -> None:
    """Let `app` answer with problem documents only."""
    for kind in (
        Refused,
        Unavailable,
        BusUnavailable,
        BlobUnavailable,
        DatabaseUnavailable,
        UpgradeNeeded,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
        RequestValidationError,
        WebSocketRequestValidationError,
        HTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, _answer)


async def _answer(connection: HTTPConnection, error: Exception) -> Response:
    path = _TOKEN.sub(r"\1…", connection.scope["path"][:200])
    response = response_of(error, f"{connection.scope.get('method', 'WEBSOCKET')} {path}")
    if isinstance(connection, WebSocket):
        await connection.send_denial_response(response)
    return response


def response_of(error: Exception, where: str) -> Response:
    """Return the response for any exception. One that nobody foresaw is logged, and the answer says nothing of it."""
    match error:
        case Refused():
            response = problem(error.code, error.detail, error.errors, error.extra)
        case Unavailable():
            response = problem(error.code, error.detail)
        case RequestValidationError() | WebSocketRequestValidationError():
            response = _validation(error.errors())
        case HTTPException():
            response = _of_framework(error, where)
        case ClientDisconnect():
            response = problem("bad_request", "the connection ended before the request did")  # nobody reads this
        case BusUnavailable():
            response = _away("bus_unavailable", "message bus", error, where)
        case BlobUnavailable():
            response = _away("blob_store_unavailable", "blob store", error, where)
        case UpgradeNeeded():
            log.warning("%s: %s", where, error)
            response = problem("upgrade_needed", str(error))
        case _ if isinstance(error, DatabaseUnavailable) or is_unavailable(error):
            response = _away("database_unavailable", "database", error, where)
        case _:
            log.error("%s failed", where, exc_info=error)
            response = problem("internal_error", "something went wrong on our side; it was logged")
    return response


def _away(code: str, what: str, error: Exception, where: str) -> Response:
    """A dependency is away. Its own words may name hosts, so they are for the log alone."""
    log.warning("%s: the %s does not answer: %s", where, what, error or type(error).__name__)
    return problem(code, f"the {what} does not answer: try again")


def _of_framework(error: HTTPException, where: str) -> Response:
    code = _FRAMEWORK_CODES.get(error.status_code, "bad_request")
    detail = f"{where}: {error.detail}" if code == "bad_request" else f"{PROBLEMS[code].title}: {where}"
    response = problem(code, detail)
    if error.headers:
        response.headers.update(error.headers)
    return response


def _validation(found: Sequence[Any]) -> Response:
    errors: list[Mistake] = [
        {"loc": list(one["loc"]), "msg": one["msg"], "type": one["type"], "input": one.get("input")} for one in found
    ]
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    detail = f"{place}: {first['msg']}" if len(errors) == 1 else f"the request has {len(errors)} mistakes"
    return problem("request_invalid", detail, errors)
