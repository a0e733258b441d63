"""Mistakes while they are being collected, before their places in the text are looked up."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from millrace_shared.definition.limits import PROBLEMS_MAX
from millrace_shared.definition.locations import Location

SUGGESTIONS_MAX = 200
"""Mistakes that get a suggestion for which many words are compared: the first ones."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake, or something to warn about, at a location of the document."""

    location: Location
    message: str
    suggestion: str | None = None


Suggestion = str | Callable[[], str | None] | None
"""What would be right; a function where finding that out takes its time."""


@dataclass(slots=True)
class Findings:
    """What the rules have found. Further mistakes are dropped once there are `PROBLEMS_MAX`."""

    mistakes: dict[tuple[Location, str], Finding] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)

    def add(self, location: Location, message: str, suggestion: Suggestion = None) -> None:
        """Adds a mistake, unless the same is known already."""
        count = len(self.mistakes)
        if count > PROBLEMS_MAX or (location, message) in self.mistakes:
            return
        if callable(suggestion):
            suggestion = suggestion() if count < SUGGESTIONS_MAX else None
        self.mistakes[location, message] = Finding(location, message, suggestion)

    def warn(self, location: Location, message: str, suggestion: str | None = None) -> None:
        """Adds a warning: the document is valid, but probably not meant like this."""
        if len(self.warnings) < PROBLEMS_MAX:
            self.warnings.append(Finding(location, message, suggestion))


def mapping(value: Any) -> dict[str, Any]:
    """Returns a mapping as it is and anything else as empty; `shape.py` reports the latter."""
    return value if isinstance(value, dict) else {}


def texts(value: Any) -> list[tuple[int, str]]:
    """Returns the strings of a list with their positions; whatever else is in it is reported by its shape."""
    return [(at, item) for at, item in enumerate(value) if isinstance(item, str)] if isinstance(value, list) else []
