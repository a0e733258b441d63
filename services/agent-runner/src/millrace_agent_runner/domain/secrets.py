"""Secrets go in at the last moment, and never come out.

The work message says where a text with secrets belongs, beside the input: nothing in the input's data can pretend to
be such a place (see `millrace_shared.expressions.template`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from millrace_agent_runner.errors import TerminalFailure
from millrace_shared.values import put_at

SecretOf = Callable[[str], str | None]
"""Returns the value of a secret by name, or None when there is none."""

SCRUBBED = "[secret]"
SECRET_CHARS_SCRUBBED_MIN = 4
"""A shorter value would blank ordinary words, and hides nothing worth hiding."""


def environment_secrets(environment: Mapping[str, str]) -> SecretOf:
    """Secrets from `MILLRACE_SECRET_<NAME>` of the runner's environment."""
    prefix = "MILLRACE_SECRET_"
    values = {name[len(prefix) :]: value for name, value in environment.items() if name.startswith(prefix)}
    return lambda name: values.get(name.upper().replace("-", "_"))


def put_in(data: Any, places: Mapping[str, tuple[str, ...]], secret_of: SecretOf) -> tuple[Any, tuple[str, ...]]:
    """Return `data` with the texts that hold secrets in their places, and the values that were used.

    Args:
        data: the input; only the containers on the way are copied.
        places: JSON pointer -> text whose even parts are literal and whose odd parts are names of secrets.
        secret_of: where values come from.

    Raises:
        TerminalFailure: a secret is not set here.
    """
    used: list[str] = []
    for pointer, parts in places.items():
        pieces: list[str] = []
        for position, part in enumerate(parts):
            if position % 2 == 0:
                pieces.append(part)
                continue
            value = secret_of(part)
            if value is None:
                variable = "MILLRACE_SECRET_" + part.upper().replace("-", "_")
                message = (
                    f'the secret "{part}" has no value here: set {variable} in the environment of the agent runner'
                )
                raise TerminalFailure(message, category="input_invalid", code="secret_missing")
            used.append(value)
            pieces.append(value)
        data = put_at(data, pointer, "".join(pieces))
    return data, tuple(used)


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """Return `text` without the values of `secrets`."""
    for value in sorted(secrets, key=len, reverse=True):
        if len(value) >= SECRET_CHARS_SCRUBBED_MIN:
            text = text.replace(value, SCRUBBED)
    return text


def scrub_value(value: Any, secrets: tuple[str, ...]) -> Any:
    """Return a JSON value without the values of `secrets` in any of its texts."""
    if not secrets:
        return value
    if isinstance(value, str):
        return scrub(value, secrets)
    if isinstance(value, dict):
        return {scrub(key, secrets): scrub_value(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub_value(item, secrets) for item in value]
    return value
