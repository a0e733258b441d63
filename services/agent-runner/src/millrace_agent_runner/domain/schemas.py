"""Judging a value by a JSON Schema (Draft 2020-12): nothing is fetched, and patterns take linear time."""

from __future__ import annotations

from typing import Any

import msgspec

from millrace_agent_runner.errors import TerminalFailure

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

    from millrace_shared.definition.schemas import validator_of

    try:
        judged = validator_of(schema.decode()).iter_errors(value)
        mistakes: list[ValidationError] = list(islice(judged, MISTAKES_MAX))
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


def _describe(mistake: Any) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in mistake.absolute_path)
    message = str(mistake.message)
    if len(message) > MISTAKE_CHARS_MAX:
        message = message[:MISTAKE_CHARS_MAX] + "…"
    return f"output{path}: {message}"
