"""Sums of what calls to models used. A cost that is unknown makes the sum unknown: unknown is not free."""

from __future__ import annotations

from millrace_shared.messages import Usage


def plus(one: Usage | None, other: Usage | None) -> Usage | None:
    """Return both together."""
    if one is None or other is None:
        return one or other
    known = one.cost_usd is not None and other.cost_usd is not None
    return Usage(
        calls=one.calls + other.calls,
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cost_usd=one.cost_usd + other.cost_usd if known else None,  # type: ignore[operator]  # checked by `known`
        unpriced=one.unpriced + other.unpriced,
    )


def since(before: Usage | None, now: Usage | None) -> Usage | None:
    """Return what has been used between two sums of the same calls; None when that is nothing."""
    if before is None or now is None or before == now:
        return None if before == now else now
    known = before.cost_usd is not None and now.cost_usd is not None
    return Usage(
        calls=now.calls - before.calls,
        input_tokens=now.input_tokens - before.input_tokens,
        output_tokens=now.output_tokens - before.output_tokens,
        cost_usd=now.cost_usd - before.cost_usd if known else None,  # type: ignore[operator]  # checked by `known`
        unpriced=now.unpriced - before.unpriced,
    )
