"""`offline:<anything>`: a stand-in for a model, so that every example runs without a key and without a network.

It is deterministic and never pretends: each text it gives begins by saying that no LLM was called. It answers in text,
or with a value of the JSON Schema that is asked for, and calls no tools. Its token counts are rough counts of words,
under the provider `offline`, and it costs nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel

from millrace_agent_runner.domain.samples import sample

NOTICE = "[offline model: no LLM was called]"
PROMPT_CHARS_SHOWN_MAX = 200
_CHUNK_CHARS = 24


def offline_model(name: str) -> Model:
    """Return the stand-in under the name that the definition gave it."""
    return FunctionModel(_answer, stream_function=_stream, model_name=name)


async def _answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if info.output_tools:
        tool = info.output_tools[0]
        arguments = sample(tool.parameters_json_schema, NOTICE)
        return ModelResponse(parts=[ToolCallPart(tool.name, arguments)])
    return ModelResponse(parts=[TextPart(_text(messages))])


async def _stream(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str]:
    text = _text(messages)
    for position in range(0, len(text), _CHUNK_CHARS):
        yield text[position : position + _CHUNK_CHARS]


def _text(messages: list[ModelMessage]) -> str:
    prompt = " ".join(_prompt(messages).split())
    shown = prompt[:PROMPT_CHARS_SHOWN_MAX] + ("…" if len(prompt) > PROMPT_CHARS_SHOWN_MAX else "")
    return f'{NOTICE} A real model would answer this prompt of {len(prompt)} characters: "{shown}"'


def _prompt(messages: list[ModelMessage]) -> str:
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                if isinstance(part, UserPromptPart) and isinstance(part.content, str):
                    return part.content
    return ""
