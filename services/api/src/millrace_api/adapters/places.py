"""A limit on what one process does at once: so many places, and whoever finds none is told to come again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from millrace_api.errors import Unavailable


class Places:
    """Counts what is going on.

    Args:
        limit: most that may be going on.
        code: the problem code of a refusal.
        what: what is going on, as the refusal says it: `requests wait`.
    """

    def __init__(self, limit: int, code: str, what: str) -> None:
        self._limit = limit
        self._code = code
        self._what = what
        self._taken = 0

    @property
    def taken(self) -> int:
        """How many places are taken now."""
        return self._taken

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Take a place for as long as the context lasts.

        Raises:
            Unavailable: there is none.
        """
        if self._taken >= self._limit:
            raise Unavailable(self._code, f"{self._limit} {self._what} already: try again later")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
