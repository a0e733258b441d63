"""Judging a value by a JSON Schema (Draft 2020-12), without ever fetching one."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from millrace_agent_runner.errors import TerminalFailure

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

MISTAKES_MAX = 5
MISTAKE_CHARS_MAX = 300
RAW_CHARS_MAX = 500
"""How much of a wrong output an error shows."""


def check_output(schema: bytes, value: Any) -> None:
    """Return when `value` matches `schema`.

    Raises:
        TerminalFailure: it does not, with the first mistakes and the beginning of the value in `detail`.
    """
    from itertools import islice

    from jsonschema.exceptions import ValidationError
    from referencing.exceptions import Unresolvable

    try:
        mistakes: list[ValidationError] = list(islice(validator_of(schema).iter_errors(value), MISTAKES_MAX))
    except (Unresolvable, RecursionError) as error:
        message = f"the output cannot be checked, as its JSON Schema is wrong: {type(error).__name__}: {error}"
        raise TerminalFailure(message, category="invalid_output", code="schema_invalid") from error
    if not mistakes:
        return
    described = [_describe(mistake) for mistake in mistakes]
    raise TerminalFailure(
        f"the output does not match the step's JSON Schema: {'; '.join(described)}",
        category="invalid_output",
        detail={
            "mistakes": described,
            "output_start": msgspec.json.encode(value)[:RAW_CHARS_MAX].decode(errors="replace"),
        },
    )


@lru_cache(maxsize=512)
def validator_of(schema: bytes) -> Draft202012Validator:
    """Compile a schema; a `$ref` that leads out of it is an error, not a download."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    nothing: Registry[Any] = Registry()
    return Draft202012Validator(msgspec.json.decode(schema), registry=nothing)


def _describe(mistake: Any) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in mistake.absolute_path)
    message = str(mistake.message)
    if len(message) > MISTAKE_CHARS_MAX:
        message = message[:MISTAKE_CHARS_MAX] + "…"
    return f"output{path}: {message}"
