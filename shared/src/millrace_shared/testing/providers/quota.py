"""A provider's limits: so many requests and tokens in a window, and 429 beyond."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from millrace_shared.testing.providers.replies import Reply, refused

MINUTE_S = 60.0


@dataclass(slots=True)
class Quota:
    """Counts what is used, and refuses what is too much. What is refused does not count.

    Attributes:
        requests: allowed in each window; None is without limit.
        tokens: input and output together; None is without limit.
        window_s: how long a window is: a minute, or less in a test that runs faster than life.
        kind: `sliding`: any window of that length; `fixed`: one after the other, from the first request on.
    """

    requests: int | None = None
    tokens: int | None = None
    window_s: float = MINUTE_S
    kind: Literal["sliding", "fixed"] = "sliding"
    _used: deque[tuple[float, int]] = field(default_factory=deque, repr=False)
    _since: float = -math.inf
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def admit(self, tokens: int, now: float) -> Reply | None:
        """Return None and count the call, or return why it is refused.

        Args:
            tokens: of the request and its answer.
            now: on the monotonic clock, in seconds.
        """
        with self._guard:
            if self.tokens is not None and tokens > self.tokens:
                return refused(413, message=f"Request too large: limit {self.tokens}, requested {tokens}.")
            self._forget(now)
            wait_s = self._wait_s(tokens, now)
            if wait_s <= 0:
                self._used.append((now, tokens))
                return None
            message = f"Rate limit reached. Please try again in {wait_s:.2f}s."
            return refused(429, message=message, retry_after_s=wait_s)

    def _forget(self, now: float) -> None:
        if self.kind == "fixed":
            if now - self._since >= self.window_s:
                behind = (now - self._since) % self.window_s if math.isfinite(self._since) else 0.0
                self._since = now - behind
                self._used.clear()
            return
        while self._used and self._used[0][0] <= now - self.window_s:
            self._used.popleft()

    def _wait_s(self, tokens: int, now: float) -> float:
        """How long until the call fits; 0 if it does."""
        calls, used = len(self._used), sum(taken for _, taken in self._used)
        if self._fits(calls, used, tokens):
            return 0.0
        if self.kind == "fixed":
            return self._since + self.window_s - now
        for at, taken in self._used:
            calls, used = calls - 1, used - taken
            if self._fits(calls, used, tokens):
                return at + self.window_s - now
        return self.window_s

    def _fits(self, calls: int, used: int, tokens: int) -> bool:
        return (self.requests is None or calls < self.requests) and (
            self.tokens is None or used + tokens <= self.tokens
        )
