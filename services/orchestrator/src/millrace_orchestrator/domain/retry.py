"""Whether a failed attempt is repeated, and when."""

from __future__ import annotations

import zlib

from millrace_shared.definition.model import Retry
from millrace_shared.messages import ErrorInfo

RETRY_AFTER_S_MAX = 3600.0
"""A provider that asks for a longer pause than this gets this one."""


_COVERED_BY = {
    "llm_rate_limit": "rate_limit",
    "llm_timeout": "timeout",
    "llm_invalid_output": "invalid_output",
}
"""Categories of calls to models, by the word of a retry rule that means them, too."""


def next_attempt_at(rule: Retry, attempt: int, error: ErrorInfo, now: float, seed: str) -> float | None:
    """Return when the attempt after `attempt` is due (Unix seconds), or None when there is none.

    An error is repeated when the rule names its category and attempts are left. The pause is never shorter than the
    other side asked for. `seed` makes the jitter the same for whoever decides.
    """
    if attempt >= rule.max_attempts or _COVERED_BY.get(error.category, error.category) not in rule.errors:
        return None
    pause_s = _pause_s(rule, attempt)
    if rule.jitter:
        pause_s *= 0.5 + 0.5 * (zlib.crc32(seed.encode()) / 0xFFFF_FFFF)
    return now + max(pause_s, min(error.retry_after_s or 0.0, RETRY_AFTER_S_MAX))


def _pause_s(rule: Retry, attempt: int) -> float:
    match rule.backoff:
        case "fixed":
            growth = 1.0
        case "linear":
            growth = float(attempt)
        case "exponential":
            growth = 2.0 ** (attempt - 1)
    return min(rule.initial * growth, rule.max)
