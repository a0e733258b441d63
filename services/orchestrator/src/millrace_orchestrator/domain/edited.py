"""Inputs that somebody has put in the place of a step's own, at a breakpoint: nobody has checked their shape yet.

What a runner performs is checked by the runner, and a `transform` gives whatever it was given.
"""

from __future__ import annotations

from typing import Any

from millrace_orchestrator.domain.plan import CHILD_KINDS, PlannedStep
from millrace_shared.definition.limits import DURATION_S_MAX
from millrace_shared.expressions.errors import BlobNeeded
from millrace_shared.expressions.paths import type_name
from millrace_shared.expressions.template import Resolved


def mistake_in(step: PlannedStep, given: Resolved) -> str | None:
    """Return why a step cannot work on an edited input, or None when it can.

    Raises:
        BlobNeeded: the input is claim-checked.
    """
    if step.kind not in CHILD_KINDS | {"wait", "approval"}:
        return None
    if "" in given.refs:
        raise BlobNeeded(frozenset((given.refs[""],)))
    if not isinstance(given.data, dict):
        return f"the input must be a mapping, and is {type_name(given.data)}"
    if step.kind == "wait":
        return _mistake_in_wait(step, given.data)
    if step.kind == "plan" and not isinstance(given.data.get("input", {}), dict):
        return f"the plan's `input` must be a mapping, and is {type_name(given.data['input'])}"
    return None


def _mistake_in_wait(step: PlannedStep, data: dict[str, Any]) -> str | None:
    delay, until, timeout = data.get("delay"), data.get("until"), data.get("timeout")
    if step.signal is not None:
        return None if timeout is None else _mistake_in_duration("timeout", timeout)
    if delay is None and until is not None:  # whether it is a time is found out when the wait begins
        return None if isinstance(until, str) else f"`until` must be an RFC 3339 time, and is {type_name(until)}"
    return _mistake_in_duration("delay", delay)


def _mistake_in_duration(name: str, value: Any) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= DURATION_S_MAX:
        return None
    return f"`{name}` must be seconds, from 0 to {DURATION_S_MAX:.0f}"
