"""What the columns of the projected tables hold: values, errors, times and usage, and a request as a whole."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from millrace_shared import tracing
from millrace_shared.messages import ErrorInfo, StartRequest, Usage
from millrace_shared.values import Payload

_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def without_nul(payload: bytes) -> bytes:
    r"""Return JSON text with every escaped NUL (`\u0000`) replaced by U+FFFD; a raw NUL is no JSON at all."""
    return _NUL.sub(rb"\1\\ufffd", payload) if b"\\u0000" in payload else payload


def document(payload: Payload) -> dict[str, Any]:
    """Return what a JSON column holds for a payload."""
    if not payload.refs:
        return {"data": payload.data}
    return {"data": payload.data, "refs": msgspec.to_builtins(payload.refs)}


def request_columns(request: StartRequest) -> dict[str, Any]:
    """Return the columns of `executions` that an execution has from its request alone."""
    columns: dict[str, Any] = {
        "workspace": request.workspace,
        "workflow_id": request.workflow_id,
        "workflow_name": request.workflow_name,
        "workflow_version": request.workflow_version,
        "definition": request.definition,
        "execution_name": request.execution_name,
        "priority": request.priority,
        "labels": request.labels,
        "requested_by": request.requested_by,
        "trace_id": tracing.trace_id(request.execution_id, request.traceparent),
        "input": document(request.input),
        "created_at": moment(request.requested_at),
    }
    parent = request.parent  # most executions have none of what follows, and so write none of these columns
    if parent is not None:
        columns.update(
            parent_id=parent.execution_id,
            parent_step=parent.step,
            parent_item=parent.item,
            root_id=parent.root,
            depth=parent.depth,
            inline=parent.inline,
        )
    if request.part:
        columns["part"] = request.part
    if request.origin is not None:
        columns["origin"] = msgspec.to_builtins(request.origin)
    if request.breakpoints:
        columns["breakpoints"] = list(request.breakpoints)
    return columns


def usage_columns(usage: Usage | None) -> dict[str, Any]:
    """What an attempt adds to the sums of its step and its execution; nothing when no model was called."""
    if usage is None or not (usage.calls or usage.cost_usd):
        return {}
    return {
        "tokens_used": usage.input_tokens + usage.output_tokens,
        "llm_calls": usage.calls,
        "cost_usd": usage.cost_usd or Decimal(0),
        "unpriced_results": int(usage.cost_usd is None),
    }


def failure_status(error: ErrorInfo) -> str:
    """The status of what failed: a timeout has one of its own."""
    return "timeout" if error.category == "timeout" else "failed"


def error_document(error: ErrorInfo | None) -> dict[str, Any] | None:
    """What a JSON column holds for an error."""
    return None if error is None else msgspec.to_builtins(error)


def moment(unix_s: float) -> datetime:
    """A Unix time as a column holds it. Raises `ValueError`, `OverflowError` or `OSError` when it is no time."""
    return datetime.fromtimestamp(unix_s, UTC)


def timestamp(at: datetime) -> str:
    """A time as JSON columns hold it: RFC 3339, UTC."""
    return at.isoformat().replace("+00:00", "Z")
