"""Replies as Anthropic's messages words them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from millrace_shared.testing.providers.replies import Call, Reply

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def error(said: Reply) -> dict[str, Any]:
    """Return the body of an error."""
    usual = "api_error" if said.status >= 500 else "invalid_request_error"  # noqa: PLR2004  the server's own
    return {"type": "error", "error": {"type": _ERROR_TYPES.get(said.status, usual), "message": said.message}}


def completion(call: Call, said: Reply) -> dict[str, Any]:
    """Return the body of a whole answer."""
    content: list[dict[str, Any]] = [] if said.text is None else [{"type": "text", "text": said.text}]
    for block in _tool_blocks(call, said):
        arguments = msgspec.json.decode(block["input"])
        content.append({**block, "input": arguments})
    return {**_head(call, content), "stop_reason": _stop_reason(said), "usage": _usage(call)}


def events(call: Call, said: Reply) -> Iterator[bytes]:
    """Return the server-sent events of a streamed answer."""
    begun = {**_head(call, []), "stop_reason": None, "usage": {**_usage(call), "output_tokens": 1}}
    yield _event("message_start", message=begun)
    index = 0
    if said.text is not None:
        yield _event("content_block_start", index=index, content_block={"type": "text", "text": ""})
        for piece in said.pieces():
            yield _event("content_block_delta", index=index, delta={"type": "text_delta", "text": piece})
        yield _event("content_block_stop", index=index)
        index += 1
    for block in _tool_blocks(call, said):
        delta = {"type": "input_json_delta", "partial_json": block["input"]}
        yield _event("content_block_start", index=index, content_block={**block, "input": {}})
        yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
        index += 1
    delta = {"stop_reason": _stop_reason(said), "stop_sequence": None}
    yield _event("message_delta", delta=delta, usage={"output_tokens": call.output_tokens})
    yield _event("message_stop")


def _event(kind: str, **more: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **more}))


def _head(call: Call, content: list[dict[str, Any]]) -> dict[str, Any]:
    known = {"id": f"msg_{call.number}", "type": "message", "role": "assistant", "model": call.model}
    return {**known, "content": content, "stop_sequence": None}


def _usage(call: Call) -> dict[str, Any]:
    """The input without what was cached, which stands beside it."""
    return {
        "input_tokens": call.input_tokens - call.cached_tokens,
        "cache_read_input_tokens": call.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": call.output_tokens,
    }


def _stop_reason(said: Reply) -> str:
    reason = said.finish_reason or ("tool_calls" if said.tool_calls else "stop")
    return _STOP_REASONS.get(reason, reason)


def _tool_blocks(call: Call, said: Reply) -> list[dict[str, Any]]:
    return [
        {
            "type": "tool_use",
            "id": one.call_id or f"toolu_{call.number}_{index}",
            "name": one.name,
            "input": one.document,
        }
        for index, one in enumerate(said.tool_calls)
    ]
