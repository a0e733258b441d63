"""What can go wrong between a client and the api.

MillraceError
└── ClientError
    ├── ServerNotFound     terminal: nothing says where the server is, or what the key is
    ├── RequestRefused     terminal: a 4xx problem; the request must change first
    ├── ServerUnreachable  retryable: nobody answers at that address
    ├── ServerUnavailable  retryable: a 5xx answer, or none in time
    └── FeedLost           retryable: a live feed broke, and could not be resumed
"""

from collections.abc import Mapping, Sequence
from typing import Any

from millrace_shared.errors import MillraceError, RetryableError, TerminalError

MISTAKES_SHOWN_MAX = 20
"""Mistakes in the text of an error; all of them are in its `errors`."""

_REMEDIES = {"unauthorized": "set MILLRACE_API_KEY to the key that `millrace up` shows, or to one of your own"}


class ClientError(MillraceError):
    """A request was not answered as it should have been."""


class ServerNotFound(ClientError, TerminalError):
    """Nothing says where the server is, or what the key is."""


class ServerUnreachable(ClientError, RetryableError):
    """Nobody answers at the server's address."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"nobody answers at {url} ({reason}): is `millrace up` running?")
        self.url = url


class ServerUnavailable(ClientError, RetryableError):
    """The server answers that it cannot, or does not answer in time."""


class FeedLost(ClientError, RetryableError):
    """A live feed broke, and could not be resumed. The execution goes on."""


class RequestRefused(ClientError, TerminalError):
    """The server will not do what was asked.

    Attributes:
        status: the HTTP status.
        code: what programs switch on, such as `workflow_not_found`.
        detail: what is wrong with this request.
        errors: every mistake, when there are several: `loc`, `msg`, and perhaps `line`, `column`, `suggestion`.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code") or f"http_{status}")
        self.detail = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
        self.errors: list[dict[str, Any]] = list(problem.get("errors") or ())
        remedy = _REMEDIES.get(self.code)
        said = f"{self.detail}: {remedy}" if remedy else self.detail
        super().__init__("\n".join([said, *self._mistakes()]))

    def _mistakes(self) -> list[str]:
        if len(self.errors) < 2:  # noqa: PLR2004  the detail says it already
            return []
        shown = [f"  {mistake_text(error)}" for error in self.errors[:MISTAKES_SHOWN_MAX]]
        if len(self.errors) > MISTAKES_SHOWN_MAX:
            shown.append(f"  ... and {len(self.errors) - MISTAKES_SHOWN_MAX} more")
        return shown


def mistake_text(error: Mapping[str, Any]) -> str:
    """Return one mistake of a problem document on one line: `line 7: steps.load.needs[0]: ...; did you mean ...?`."""
    where = error.get("loc") or ""
    place = where if isinstance(where, str) else _spelled(where)
    line = f"line {error['line']}: " if error.get("line") else ""
    hint = f"; {error['suggestion']}" if error.get("suggestion") else ""
    return f"{line}{place + ': ' if place else ''}{error.get('msg', '')}{hint}"


def _spelled(keys: Sequence[Any]) -> str:
    """Return `input.leads[0].company` for its keys."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text
