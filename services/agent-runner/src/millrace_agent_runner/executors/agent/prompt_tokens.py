"""How many tokens a request has, counted from all that is sent."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from pydantic_ai.messages import ModelMessage, ModelRequest
from pydantic_ai.models import ModelRequestParameters

from millrace_agent_runner.domain.estimates import count_tokens

ATTACHMENT_TOKENS = 1_000
"""Of an image, a document, or another part that is no text."""


def prompt_tokens(messages: list[ModelMessage], parameters: ModelRequestParameters) -> int:
    """Return about how many tokens of input a request has; `domain/estimates.py` says how that is corrected."""
    return count_tokens(_texts(messages, parameters)) + ATTACHMENT_TOKENS * _attachments(messages)


def _texts(messages: list[ModelMessage], parameters: ModelRequestParameters) -> Iterable[str]:
    """Everything that is sent and is text."""
    for message in messages:
        for part in message.parts:
            content = getattr(part, "content", None)
            if isinstance(content, str):
                yield content
            elif isinstance(content, list | tuple):
                yield from (one for one in content if isinstance(one, str))
            elif content is not None:
                yield msgspec.json.encode(content, enc_hook=str).decode()
            arguments = getattr(part, "args", None)
            if arguments is not None:
                yield arguments if isinstance(arguments, str) else msgspec.json.encode(arguments, enc_hook=str).decode()
    said = (message.instructions for message in reversed(messages) if isinstance(message, ModelRequest))
    yield next(said, None) or ""
    for tool in (*parameters.function_tools, *parameters.output_tools):
        yield f"{tool.name} {tool.description or ''}"
        yield msgspec.json.encode(tool.parameters_json_schema).decode()


def _attachments(messages: list[ModelMessage]) -> int:
    contents = (getattr(part, "content", None) for message in messages for part in message.parts)
    return sum(not isinstance(one, str) for content in contents if isinstance(content, list | tuple) for one in content)
