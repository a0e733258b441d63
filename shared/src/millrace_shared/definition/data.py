"""Checks that data is JSON that every part of the system can carry, and not too much of it."""

import math
from typing import Any

from millrace_shared.definition.errors import DefinitionInvalid, Problem
from millrace_shared.definition.limits import NESTING_DEPTH_MAX, PROBLEMS_MAX, SOURCE_BYTES_MAX
from millrace_shared.definition.locations import Location, spell_location

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1
"""Whole numbers that message formats can carry."""


def check_data(data: Any) -> list[tuple[Location, str]]:
    """Finds what is no JSON in data, up to `PROBLEMS_MAX` places with what is wrong there.

    Raises:
        DefinitionInvalid: There is too much of it, or it is nested too deep to be looked at any further.
    """
    found: list[tuple[Location, str]] = []
    left_bytes = SOURCE_BYTES_MAX
    stack: list[tuple[Any, Location]] = [(data, ())]
    while stack and len(found) < PROBLEMS_MAX:
        value, at = stack.pop()
        left_bytes -= len(value) + 2 if isinstance(value, str) else 2
        if left_bytes < 0:
            raise DefinitionInvalid([Problem("", f"the definition is larger than {SOURCE_BYTES_MAX} bytes")])
        message = None
        if isinstance(value, dict | list) and len(at) > NESTING_DEPTH_MAX:
            message = f"nested deeper than {NESTING_DEPTH_MAX} levels"
            raise DefinitionInvalid([Problem(spell_location(at[:4]), message)])
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str):
                    found.append((at, f"the key {str(key)[:40]} is not text"))
                    continue
                left_bytes -= len(key)
                message = message or _text_mistake(key)
                stack.append((item, (*at, key)))
        elif isinstance(value, list):
            stack.extend((item, (*at, index)) for index, item in enumerate(value))
        else:
            message = _scalar_mistake(value)
        if message:
            found.append((at, message))
    return found


def _scalar_mistake(value: Any) -> str | None:
    if isinstance(value, str):
        return _text_mistake(value)
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if INTEGER_MIN <= value <= INTEGER_MAX else "this number does not fit into 64 bits; quote it"
    if isinstance(value, float):
        return None if math.isfinite(value) else "this is not a finite number"
    return f"a value of type {type(value).__name__} is not JSON"


def _text_mistake(text: str) -> str | None:
    if "\x00" in text:
        return "text cannot hold NUL"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "text holds half of a surrogate pair, which is not a character"
    return None
