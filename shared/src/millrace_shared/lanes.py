"""Lanes: what of the runners' work goes before what. A lane is a token of a work subject, and has its own consumers.

Everybody's work goes by its priority. What a workspace has queued beyond its share is *crowded* and goes to a lane of
its own, behind everybody else's, whatever its priority: else one workspace could keep all others waiting, and would
only have to call its work urgent. How the lanes share the runners' slots is the runners' business.
"""

from __future__ import annotations

from typing import Literal

from millrace_shared.messages import Priority

Lane = Literal["high", "normal", "low", "high-crowded", "normal-crowded", "low-crowded"]

LANES: tuple[Lane, ...] = ("high", "normal", "low", "high-crowded", "normal-crowded", "low-crowded")
"""In order of precedence."""
LANES_UNCROWDED = LANES[:3]
LANES_CROWDED = LANES[3:]

_CROWDED: dict[Priority, Lane] = {"high": "high-crowded", "normal": "normal-crowded", "low": "low-crowded"}


def lane_of(priority: Priority, crowded: bool) -> Lane:
    """Return the lane of an attempt: `crowded` is what its `StepScheduled` says."""
    return _CROWDED[priority] if crowded else priority
