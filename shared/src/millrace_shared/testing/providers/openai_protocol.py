"""Replies as OpenAI's chat completions words them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec

from millrace_shared.testing.providers.replies import Call, Reply


def error(said: Reply) -> dict[str, Any]:
    """Return the body of an error."""
    return {"error": {"message": said.message, "type": said.code, "param": None, "code": said.code}}


def completion(call: Call, said: Reply) -> dict[str, Any]:
    """Return the body of a whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": said.text}
    if said.tool_calls:
        message["tool_calls"] = _tool_calls(call, said)
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(said)}
    return {**_head(call, "chat.completion"), "choices": [choice], "usage": _usage(call)}


def events(call: Call, said: Reply) -> Iterator[bytes]:
    """Return the server-sent events of a streamed answer."""
    head = _head(call, "chat.completion.chunk")

    def event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _event({**head, "choices": [choice]})

    yield event({"role": "assistant", "content": ""})
    for piece in said.pieces():
        yield event({"content": piece})
    for tool_call in _tool_calls(call, said):
        arguments = tool_call["function"]["arguments"]
        begun = {**tool_call, "function": {"name": tool_call["function"]["name"], "arguments": ""}}
        yield event({"tool_calls": [begun]})
        yield event({"tool_calls": [{"index": tool_call["index"], "function": {"arguments": arguments}}]})
    yield event({}, _finish_reason(said))
    if (call.body.get("stream_options") or {}).get("include_usage"):
        yield _event({**head, "choices": [], "usage": _usage(call)})
    yield b"data: [DONE]\n\n"


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(chunk)


def _head(call: Call, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{call.number}", "object": kind, "created": int(time.time()), "model": call.model}


def _usage(call: Call) -> dict[str, Any]:
    return {
        "prompt_tokens": call.input_tokens,
        "completion_tokens": call.output_tokens,
        "total_tokens": call.input_tokens + call.output_tokens,
        "prompt_tokens_details": {"cached_tokens": call.cached_tokens},
    }


def _finish_reason(said: Reply) -> str:
    return said.finish_reason or ("tool_calls" if said.tool_calls else "stop")


def _tool_calls(call: Call, said: Reply) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "id": one.call_id or f"call_{call.number}_{index}",
            "type": "function",
            "function": {"name": one.name, "arguments": one.document},
        }
        for index, one in enumerate(said.tool_calls)
    ]
