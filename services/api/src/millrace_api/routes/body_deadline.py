"""A limit for how long a request's body may take to arrive: uvicorn has none, and each open request holds a place."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from millrace_api.errors import Refused

BODY_TIMEOUT_S = 30.0
"""From when the body is first asked for until all of it is there. The largest one (8 MiB) needs 2.2 Mbit/s."""


class BodyDeadline:
    """Refuses a request whose body does not arrive in time, in the place that reads it.

    Once the body is there nothing is limited any more: an answer may take as long as it takes. WebSockets are left
    alone. A request that nobody reads the body of costs nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            receive = _limited(receive)
        await self._app(scope, receive, send)


def _limited(receive: Receive) -> Receive:
    """Return `receive` with a deadline for the end of the body.

    Raises (when it is called):
        Refused: `request_timeout`.
    """
    arrived = False
    deadline: float | None = None

    async def receive_in_time() -> Message:
        nonlocal arrived, deadline
        if arrived:
            return await receive()
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + BODY_TIMEOUT_S
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise Refused(
                "request_timeout", f"the body did not arrive within {BODY_TIMEOUT_S:g} s: send all of it at once"
            ) from None
        arrived = not message.get("more_body", False)
        return message

    return receive_in_time
