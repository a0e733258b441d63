"""What the demo provider answers: derived from the request alone, so the same request has the same answer."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgspec

from millrace_agent_runner.domain.samples import sample

PROMPT_CHARS_SHOWN_MAX = 160
CHARS_PER_TOKEN = 4


class Asked(NamedTuple):
    """A chat request, as far as the answer depends on it."""

    model: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    schema: dict[str, Any] | None


class Answer(NamedTuple):
    """A text, or one call of a tool: (name, arguments)."""

    text: str | None
    tool_call: tuple[str, dict[str, Any]] | None = None


def answer(asked: Asked) -> Answer:
    """Answer a request.

    A tool is called once, with arguments from the prompt; when its result is there, the answer says so. A tool that is
    the answer itself, by its name, is called last, with a value of its schema.
    """
    prompt = prompt_of(asked.messages)
    if asked.schema is not None:
        return Answer(msgspec.json.encode(sample(asked.schema, _sentence(prompt))).decode())
    results = [message for message in asked.messages if message.get("role") == "tool"]
    plain = [tool for tool in asked.tools if not _is_answer(tool)]
    if plain and not results:
        return Answer(None, _call(plain[0], prompt))
    final = [tool for tool in asked.tools if _is_answer(tool)]
    if final:
        return Answer(None, _call(final[0], _sentence(prompt)))
    seen = f" Tools said: {_text_of(results[-1])[:PROMPT_CHARS_SHOWN_MAX]}" if results else ""
    return Answer(f"{_sentence(prompt)}{seen}")


def prompt_of(messages: list[dict[str, Any]]) -> str:
    """Return the last thing that the user said."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return _text_of(message)
    return ""


def tokens_of(value: Any) -> int:
    """Count tokens, roughly: a quarter of the characters, at least one."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return max(1, len(text) // CHARS_PER_TOKEN)


def _sentence(prompt: str) -> str:
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    words = " ".join(prompt.split())
    return f"[demo provider {digest}] You asked: {words[:PROMPT_CHARS_SHOWN_MAX]}"


def _is_answer(tool: dict[str, Any]) -> bool:
    name = str(tool.get("function", {}).get("name", ""))
    return name in {"answer", "final_result"}


def _call(tool: dict[str, Any], text: str) -> tuple[str, dict[str, Any]]:
    function = tool.get("function", {})
    arguments = sample(function.get("parameters", {}), text)
    return str(function.get("name", "")), arguments if isinstance(arguments, dict) else {}


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
