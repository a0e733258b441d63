"""The values of an execution's input, as they are typed on a command line."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from millrace_shared.errors import TerminalError


class InputUnreadable(TerminalError):
    """An `--input` or an `--input-file` cannot be understood."""


def parse_input(pairs: Sequence[str], document: str | None, definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input that `name=value` pairs and a JSON document make; the pairs go before the document.

    A value is text where the definition's input is a string, else JSON, and text if it is no JSON.

    Args:
        pairs: `name=value`.
        document: the text of a JSON object, if there is one.
        definition: the workflow's, for the types of its `inputs`.

    Raises:
        InputUnreadable: a pair without `=`, or a document that is no JSON object.
    """
    values = _document(document) if document is not None else {}
    schemas = definition.get("inputs") or {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InputUnreadable(f"--input takes name=value, not {pair!r}")
        values[name] = _value(text, schemas.get(name) or {})
    return values


def _document(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputUnreadable(f"the input file is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputUnreadable('the input file must hold a JSON object, like {"name": "value"}')
    return values


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
