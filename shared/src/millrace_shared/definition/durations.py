"""Durations as people write them: `15m`, `2s`, `1h30m`, `250ms`, or a number of seconds."""

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from millrace_shared.definition.limits import DURATION_S_MAX

PATTERN = r"^(?=\d)(\d+d)?(\d+h)?(\d+m(?!s))?(\d+(\.\d+)?s)?(\d+ms)?$"
_PARTS = re.compile(
    r"(?:(?P<d>\d{1,9})d)?(?:(?P<h>\d{1,9})h)?(?:(?P<m>\d{1,9})m(?!s))?"
    r"(?:(?P<s>\d{1,9}(?:\.\d{1,9})?)s)?(?:(?P<ms>\d{1,9})ms)?"
)
_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_EXAMPLES = "write it like 250ms, 2s, 15m, 1h30m, or as a number of seconds"


def parse_duration(value: Any) -> float:
    """Reads a duration.

    Args:
        value: Text such as `1h30m`, or a number of seconds.

    Returns:
        Seconds, from 0 to `DURATION_S_MAX`.

    Raises:
        ValueError: The value is not a duration, or out of bounds; the message says how to write one.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"a duration is needed here: {_EXAMPLES}")  # noqa: TRY004  # pydantic collects ValueError only
    if isinstance(value, str):
        match = _PARTS.fullmatch(value.strip()) if value.strip() else None
        if match is None:
            raise ValueError(f'"{value[:40]}" is not a duration: {_EXAMPLES}')
        seconds = sum(float(count) * _SECONDS[unit] for unit, count in match.groupdict().items() if count)
    else:
        seconds = float(min(max(value, -1), 10**12)) if value == value else math.nan  # noqa: PLR0124  # NaN
    if not 0 <= seconds <= DURATION_S_MAX:
        raise ValueError("a duration lies between 0 and 365 days")
    return round(seconds, 6)


def _validated(value: Any) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise PydanticCustomError("duration", "{reason}", {"reason": str(error)}) from None


_JSON_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": PATTERN},
        {"type": "number", "minimum": 0, "maximum": DURATION_S_MAX},
    ],
    "examples": ["250ms", "2s", "15m", "1h30m"],
}

Duration = Annotated[float, BeforeValidator(_validated), WithJsonSchema(_JSON_SCHEMA)]
"""Seconds, written as text or number; may be zero."""

PositiveDuration = Annotated[float, BeforeValidator(_validated), Field(gt=0), WithJsonSchema(_JSON_SCHEMA)]
"""Seconds, more than zero."""
