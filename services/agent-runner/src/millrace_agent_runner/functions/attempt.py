"""Which attempt a function runs for."""

from __future__ import annotations

from typing import NamedTuple

from millrace_agent_runner.domain.attempt import current


class CurrentAttempt(NamedTuple):
    """The attempt that the running function belongs to.

    `attempt` counts from 1. `item` is the position under `for_each`. `ends_at` is Unix seconds. Execution, step and
    item together make a good idempotency key for another system: they are the same in every attempt.
    """

    execution_id: str
    workspace: str
    workflow_name: str
    step: str
    item: int | None
    attempt: int
    ends_at: float


def current_attempt() -> CurrentAttempt:
    """Return the attempt that the running function belongs to.

    Raises:
        LookupError: called outside of a step.
    """
    attempt = current.get()
    step = attempt.step
    return CurrentAttempt(
        step.execution_id, step.workspace, step.workflow_name, step.step, step.item, step.attempt, attempt.ends_at
    )
