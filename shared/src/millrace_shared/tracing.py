"""Trace and span ids, derived rather than carried, so that any service can name a span it did not open.

The trace is the caller's when the request had a W3C `traceparent`, and the execution's own otherwise. A step's span
id comes from execution, step and attempt: the runner parents live spans under it, and the telemetry service emits the
step's span later from the recorded times, without a message between the two.
"""

from __future__ import annotations

import re
from hashlib import blake2b

_TRACEPARENT = re.compile(r"00-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}")


def trace_id(execution_id: str, traceparent: str | None) -> str:
    """Return the trace id (32 hex digits): the caller's, or the execution id's own 128 bits."""
    parsed = parse_traceparent(traceparent)
    return parsed[0] if parsed else execution_id.replace("-", "")


def parse_traceparent(traceparent: str | None) -> tuple[str, str] | None:
    """Return (trace id, parent span id) of a version-00 `traceparent`, or None when it is absent or invalid."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    if match is None or set(match["trace"]) == {"0"} or set(match["span"]) == {"0"}:
        return None
    return match["trace"], match["span"]


def execution_span_id(execution_id: str) -> str:
    """Return the span id (16 hex digits) of the whole execution."""
    return _digest(execution_id)


def attempt_span_id(execution_id: str, attempt_key: str) -> str:
    """Return the span id (16 hex digits) of one step attempt."""
    return _digest(f"{execution_id}/{attempt_key}")


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
