"""What the api answers instead of what was asked for.

    TerminalError
    ├── Refused             a 4xx problem: the caller must change something first
    ├── CalendarInvalid     a cron expression or a time zone; becomes a `Refused` that names the field
    └── EventUnusable       an event that a trigger cannot be fired with: a `Refused`, or a dead letter
    RetryableError
    └── Unavailable         a 503 problem: the same request may succeed later

`Refused` and `Unavailable` name a code of `domain/problems.py`, which gives the status and the title. Errors of the
bus, the blob store and the database become 503 problems at the edge (`routes/problems.py`); anything else is a 500
that says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from millrace_shared.errors import RetryableError, TerminalError

Mistake = dict[str, Any]
"""One entry of a problem's `errors`: `loc` (path of names and positions), `msg`, `type`, and `input` if it is known."""


class Refused(TerminalError):
    """The request cannot be granted as it is.

    Args:
        code: a key of `domain.problems.PROBLEMS`.
        detail: what is wrong with this request, to what, and what to do.
        errors: every mistake, when the request has several.
        extra: further members of the problem document, such as the id of what stands in the way.
    """

    def __init__(self, code: str, detail: str, errors: Sequence[Mistake] = (), **extra: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = list(errors)
        self.extra = extra


class CalendarInvalid(TerminalError):
    """A schedule cannot be kept: `field` of it is wrong, and why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class EventUnusable(TerminalError):
    """An event has nothing wrong with it for others, but this trigger's expressions cannot be evaluated with it."""


class Unavailable(RetryableError):
    """Something that the request needs does not answer right now."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
