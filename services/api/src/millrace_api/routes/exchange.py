"""What every route shares: who calls, what the process has to offer, bodies in and JSON out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec
from fastapi import Depends, Query
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from millrace_api.adapters.acceptance import Acceptance
from millrace_api.adapters.agent_store import AgentStore
from millrace_api.adapters.budgets import Budgets
from millrace_api.adapters.bulk import Bulk
from millrace_api.adapters.dead_letters import DeadLetters
from millrace_api.adapters.definitions import Definitions
from millrace_api.adapters.derivation import Derivation
from millrace_api.adapters.drafting import Drafting
from millrace_api.adapters.event_log import EventLog
from millrace_api.adapters.execution_watch import ExecutionWatch
from millrace_api.adapters.executions import Executions
from millrace_api.adapters.explainer import Explainer
from millrace_api.adapters.invocation import Invocations
from millrace_api.adapters.places import Places
from millrace_api.adapters.projection_reader import ProjectionReader
from millrace_api.adapters.rate_limits import RateLimits
from millrace_api.adapters.steering import Steering
from millrace_api.adapters.trigger_firing import Firing
from millrace_api.adapters.trigger_store import TriggerStore
from millrace_api.adapters.usage import UsageReader
from millrace_api.adapters.uses import Uses
from millrace_api.adapters.waiting import Waiting
from millrace_api.adapters.workflow_feed import WorkflowFeed
from millrace_api.adapters.workflow_store import WorkflowStore
from millrace_api.domain.filters import LIMIT_DEFAULT, LIMIT_MAX, SKIP_MAX
from millrace_api.errors import Refused
from millrace_api.identity import Authenticator, Identity
from millrace_shared.blobs import Blobs
from millrace_shared.bus.group_commit import GroupCommit
from millrace_shared.ops import Check

PREFIX = "/api/v1"

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Adapters:
    """What the routes work with. `bootstrap.py` makes one per process."""

    authenticator: Authenticator
    acceptance: Acceptance
    waiting: Waiting
    executions: Executions
    projection: ProjectionReader
    event_log: EventLog
    inbox: GroupCommit
    steering: Steering
    explainer: Explainer
    derivation: Derivation
    bulk: Bulk
    uses: Uses
    workflows: WorkflowStore
    agents: AgentStore
    invocations: Invocations
    drafting: Drafting
    triggers: TriggerStore
    firing: Firing
    dead: DeadLetters
    rate_limits: RateLimits
    budgets: Budgets
    usage: UsageReader
    definitions: Definitions
    blobs: Blobs
    feed: WorkflowFeed
    watch: ExecutionWatch
    sockets: Places
    checks: dict[str, Check]


def adapters(connection: HTTPConnection) -> Adapters:
    """Return what the process has to offer."""
    return cast("Adapters", connection.app.state.adapters)


async def _caller(request: Request) -> Identity:
    return adapters(request).authenticator.identify(request)


Caller = Annotated[Identity, Depends(_caller)]
"""The authenticated caller; 401 before anything else of the request is looked at."""

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Entries of a page.")]
Skip = Annotated[int, Query(ge=0, le=SKIP_MAX, description="Entries before the page. Prefer `cursor`.")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")]
LIMIT: int = LIMIT_DEFAULT


class Json(Response):
    """A JSON answer, encoded by msgspec."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode `content`."""
        return _encode(content)


async def read_body(request: Request, size_bytes_max: int) -> bytes:
    """Return the request's body.

    Raises:
        Refused: `body_too_large`, as soon as that is known.
    """
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > size_bytes_max:
        raise _too_large(size_bytes_max)
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > size_bytes_max:
            raise _too_large(size_bytes_max)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def page(items: list[Any], total: int, skip: int, limit: int, next_cursor: str | None) -> Json:
    """Return the answer of a list."""
    return Json({"items": items, "total": total, "skip": skip, "limit": limit, "next_cursor": next_cursor})


def _too_large(size_bytes_max: int) -> Refused:
    size_kib = size_bytes_max // 1024
    limit = f"{size_kib // 1024} MiB" if size_kib >= 1024 else f"{size_kib} KiB"  # noqa: PLR2004
    return Refused(
        "body_too_large",
        f"the body is over {limit}: store the data elsewhere and pass a reference to it",
    )
