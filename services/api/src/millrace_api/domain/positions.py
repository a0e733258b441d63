"""Places in the live feed of an execution: what a client has seen, in both streams that feed it.

`7.2-1841` is event 2 of the log's version 7, and sequence 1841 of the telemetry stream. Every message carries the place
after it, so one id is all that a client needs to come back without a gap or a repetition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from millrace_api.errors import Refused

_PLACE = re.compile(r"(\d{1,9})\.(-1|\d{1,9})-(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """What was seen: events up to `event` of version `version`, and facts up to `fact_sequence`."""

    version: int = 0
    event: int = -1
    fact_sequence: int = 0

    def __str__(self) -> str:
        return f"{self.version}.{self.event}-{self.fact_sequence}"

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Read what `str` wrote; nothing is the beginning.

        Raises:
            Refused: `request_invalid`: it is no such id.
        """
        if not text:
            return cls()
        match = _PLACE.fullmatch(text)
        if match is None:
            message = "send the `id` of the last message, as it is"
            raise Refused(
                "request_invalid",
                f"last_event_id: {message}",
                [{"loc": ["query", "last_event_id"], "msg": message, "type": "value_invalid", "input": text}],
            )
        return cls(*map(int, match.groups()))
