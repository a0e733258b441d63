"""Times and spans as people read them in a sentence."""

from __future__ import annotations

from datetime import UTC, datetime

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_PRECISE_BELOW_S = 10


def clock(moment: datetime) -> str:
    """Return a time to the second: `2026-01-15T10:00:00Z`."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def span(seconds: float) -> str:
    """Return a length of time with the digits that matter: `0.4 s`, `12 s`, `5 min 3 s`, `3 h 10 min`, `3 d 4 h`."""
    seconds = max(0.0, seconds)
    if seconds < _PRECISE_BELOW_S and round(seconds, 1) != round(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 2 * _MINUTE_S:
        return f"{whole} s"
    if whole < 2 * _HOUR_S:
        return _of_two(whole, _MINUTE_S, "min", 1, "s")
    if whole < 2 * _DAY_S:
        return _of_two(whole, _HOUR_S, "h", _MINUTE_S, "min")
    return _of_two(whole, _DAY_S, "d", _HOUR_S, "h")


def _of_two(seconds: int, large_s: int, large: str, small_s: int, small: str) -> str:
    """Return a length in two units, or in the larger one alone."""
    rest = seconds % large_s // small_s
    return f"{seconds // large_s} {large}" + (f" {rest} {small}" if rest else "")


def since(moment: datetime, now: datetime) -> str:
    """Return since when something lasts, and for how long: `since 2026-01-15T10:00:00Z (12 s)`."""
    return f"since {clock(moment)} ({span((now - moment).total_seconds())})"


def until(moment: datetime, now: datetime) -> str:
    """Return until when something lasts: `until 2026-01-15T10:00:00Z (in 12 s)`."""
    return f"until {clock(moment)} (in {span((moment - now).total_seconds())})"
