"""What a client asked, and what it is to be told."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

PIECE_CHARS = 16
Protocol = Literal["openai", "anthropic"]
Fate = Literal["open", "sent", "broken", "left"]

_TOKEN = re.compile(r"\w+|[^\w\s]")


class ToolCall(NamedTuple):
    """A call of a tool that the model asks for; `arguments` may be text that is no JSON."""

    name: str
    arguments: Mapping[str, Any] | str
    call_id: str | None = None

    @property
    def document(self) -> str:
        """The arguments as a client gets them."""
        return self.arguments if isinstance(self.arguments, str) else msgspec.json.encode(self.arguments).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One reply.

    Attributes:
        text: the answer.
        tool_calls: what the model wants called.
        status: of HTTP; from 400 on it is an error, and `code` and `message` are its explanation.
        code: the error's name.
        message: the error's words.
        retry_after_s: the header, as whole seconds or with decimals.
        body: the whole body, in place of anything else.
        finish_reason: as OpenAI words it; by what the reply holds when None.
        input_tokens: as the usage states them; counted from the request when None.
        output_tokens: counted from the reply when None.
        cached_tokens: how many of the input tokens the usage calls cached.
        delay_s: before the first byte.
        piece_delay_s: between the pieces of a stream.
        hold: nothing is sent before it is set.
        break_after_pieces: the connection breaks when so many pieces of a stream were sent; at 0 before the first byte.
        size_bytes: the text is repeated until it is this long; may be infinite.
    """

    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    status: int = 200
    code: str = ""
    message: str = ""
    retry_after_s: float | None = None
    body: bytes | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    delay_s: float = 0.0
    piece_delay_s: float = 0.0
    hold: threading.Event | None = None
    break_after_pieces: int | None = None
    size_bytes: float | None = None

    def pieces(self) -> Iterator[str]:
        """Return the text in the pieces that a stream sends, repeated up to `size_bytes`."""
        text = self.text or ""
        sent, size = 0, len(text.encode()) if self.size_bytes is None else self.size_bytes
        step = PIECE_CHARS if self.size_bytes is None else max(1, len(text))
        while text and sent < size:
            for start in range(0, len(text), step):
                piece = text[start : start + step]
                sent += len(piece.encode())
                yield piece

    def output_count(self) -> int:
        """Return the tokens of the answer, as the provider counts them."""
        if self.output_tokens is not None:
            return self.output_tokens
        known = 0 if self.size_bytes is None or math.isinf(self.size_bytes) else int(self.size_bytes / 4)
        return max(1, known, count(self.text or "") + sum(count(call.document) + 1 for call in self.tool_calls))


@dataclass(slots=True)
class Call:
    """One request, and what became of it.

    Attributes:
        number: 1 is the first that the server got.
        protocol: which of the two it speaks.
        headers: by name in small letters.
        body: the request.
        at: when it came, on the monotonic clock.
        status: what it was answered with; 0 while it is not.
        fate: `sent` whole, `broken` off as the reply demanded, `left` by the client, or still `open`.
        input_tokens: as they are billed; 0 for an error.
        output_tokens: likewise.
        cached_tokens: how many of the input tokens were cached.
    """

    number: int
    protocol: Protocol
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    at: float
    status: int = 0
    fate: Fate = "open"
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    _texts: tuple[str, ...] | None = field(default=None, repr=False)

    @property
    def model(self) -> str:
        """The model that is asked for."""
        return str(self.body.get("model", ""))

    @property
    def stream(self) -> bool:
        """Whether the client wants server-sent events."""
        return bool(self.body.get("stream"))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation so far, in the protocol's own form."""
        return list(self.body.get("messages") or ())

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of the tools that the model may call."""
        return tuple(str(tool.get("function", tool).get("name", "")) for tool in self.body.get("tools") or ())

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text of the conversation, the system's and the results of tools included, in order."""
        if self._texts is None:
            self._texts = tuple(_texts(self.body.get("system"))) + tuple(
                text for message in self.messages for text in _texts(message.get("content"))
            )
        return self._texts

    @property
    def prompt(self) -> str:
        """The last text of the conversation."""
        return self.texts[-1] if self.texts else ""

    def input_count(self) -> int:
        """Return the tokens of the request, as the provider counts them."""
        tools = self.body.get("tools")
        described = count(msgspec.json.encode(tools).decode()) if tools else 0
        return max(1, sum(map(count, self.texts)) + described)


def reply(text: str | None = None, *tool_calls: ToolCall, **more: Any) -> Reply:
    """Return an answer of text, of calls of tools, or of both; `more` are the attributes of `Reply`."""
    return Reply(text=text, tool_calls=tool_calls, **more)


def structured(call: Call, value: Any, **more: Any) -> Reply:
    """Return a value as the request asks for it: as text by `response_format`, or by a call of the tool for answers.

    That tool is the last one that the request names.
    """
    if call.body.get("response_format"):
        return Reply(text=msgspec.json.encode(value).decode(), **more)
    return Reply(tool_calls=(ToolCall(call.tools[-1], value),), **more)


def calls(name: str, call_id: str | None = None, /, **arguments: Any) -> ToolCall:
    """Return a call of a tool."""
    return ToolCall(name, arguments, call_id)


def refused(
    status: int, code: str = "", message: str = "", *, retry_after_s: float | None = None, **more: Any
) -> Reply:
    """Return an error, with the words that providers use for it when none are given."""
    usual = _REFUSALS.get(status, ("server_error", "The server had an error."))
    return Reply(status=status, code=code or usual[0], message=message or usual[1], retry_after_s=retry_after_s, **more)


def raw(body: bytes, **more: Any) -> Reply:
    """Return a body as it is, whatever the protocol says; for a client that wants a stream it is the stream."""
    return Reply(body=body, **more)


def never() -> Reply:
    """Return no reply at all: the client waits until it gives up."""
    return Reply(hold=threading.Event())


def hang_up(text: str = "this will break off before its end", *, after_pieces: int = 0) -> Reply:
    """Return a reply that breaks off; at 0 before its first byte."""
    return Reply(text=text, break_after_pieces=after_pieces)


def endless(text: str = "and so on, ", *, size_bytes: float = math.inf, piece_delay_s: float = 0.0) -> Reply:
    """Return a text that goes on for so many bytes, or until the client leaves."""
    return Reply(text=text, size_bytes=size_bytes, piece_delay_s=piece_delay_s)


def count(text: str) -> int:
    """Return the tokens of a text: its words and symbols."""
    return len(_TOKEN.findall(text))


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict):
                yield from _texts(part.get("text", part.get("content")))


_REFUSALS: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "The request is not one."),
    401: ("invalid_api_key", "Incorrect API key provided."),
    403: ("permission_denied", "You may not use this model."),
    404: ("model_not_found", "The model does not exist."),
    413: ("rate_limit_exceeded", "Request too large: limit 6000 tokens per minute, requested 104328."),
    429: ("rate_limit_exceeded", "Rate limit reached."),
    503: ("server_error", "The engine is overloaded."),
    529: ("overloaded_error", "Overloaded."),
}
