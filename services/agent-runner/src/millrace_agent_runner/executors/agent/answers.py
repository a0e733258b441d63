"""What form an agent's answer has: text, or a value of a JSON Schema, and how a model is made to give it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from pydantic_ai import ModelRetry, StructuredDict

from millrace_agent_runner.domain.schemas import check_output
from millrace_agent_runner.errors import TerminalFailure

_WRAPPER = "value"
"""Providers take objects only, so another kind of value travels as the one member of an object."""


class AnswerForm:
    """The form of an answer.

    Args:
        schema: the JSON Schema that it must match; None: any text.

    Attributes:
        is_text: the model answers in text, which can be shown while it comes.
        output_type: what pydantic-ai asks the model for.
    """

    def __init__(self, schema: bytes | None) -> None:
        decoded: Any = None if schema is None else msgspec.json.decode(schema)
        self._schema = schema
        self._is_wrapped = False
        self.is_text = decoded is None or _is_text(decoded)
        self.output_type: Any = str
        if not self.is_text:
            self._is_wrapped = not _is_object(decoded)
            self.output_type = StructuredDict(_wrapped(decoded) if self._is_wrapped else decoded, name="answer")

    def value_of(self, output: Any) -> Any:
        """Return the answer in what pydantic-ai returns."""
        return output.get(_WRAPPER) if self._is_wrapped and isinstance(output, dict) else output

    def check(self, value: Any) -> None:
        """Return when an answer matches its schema.

        Raises:
            ModelRetry: it does not; the model is told why.
        """
        if self._schema is None:
            return
        try:
            check_output(self._schema, value)
        except TerminalFailure as error:
            raise ModelRetry(str(error)) from error


form_of = lru_cache(maxsize=256)(AnswerForm)


def _is_text(schema: Any) -> bool:
    return schema is True or (isinstance(schema, dict) and schema.get("type") == "string" and "enum" not in schema)


def _is_object(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"


def _wrapped(schema: Any) -> dict[str, Any]:
    definitions: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    inner = {key: part for key, part in schema.items() if key not in definitions}
    return {"type": "object", "properties": {_WRAPPER: inner}, "required": [_WRAPPER], **definitions}
