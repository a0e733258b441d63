"""Dormant executions: nothing of them runs, and everything that they wait for is durable somewhere else.

Such an execution needs nobody to remember it. Its timers are schedules of the NATS server, signals and verdicts come to
its inbox, its children tell it of their end. So it gives back its lease and leaves memory; a message brings it back.

When it falls asleep and when it is woken are told from the log and the clock, without a word in the log. An execution
falls asleep `ASLEEP_AFTER_S` after its last transition at the earliest. Whoever moves one on that has been quiet for
`AWAKE_AFTER_S` takes it for asleep, whatever it remembers, and puts a new lease. The ten seconds in between are what
clocks may differ by: who puts it to sleep cannot have missed a transition that was made without a new lease.
"""

from __future__ import annotations

from collections.abc import Iterable

from millrace_orchestrator.domain.commands import Arm, Begin, Command, Tell, outstanding
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import ExecutionState

ASLEEP_AFTER_S = 15.0
AWAKE_AFTER_S = 5.0


def is_durable_elsewhere(awaited: Iterable[Command], now: float, horizon_s: float) -> bool:
    """Whether nobody need remember what an execution waits for.

    Args:
        awaited: what is outstanding.
        now: Unix seconds.
        horizon_s: a timer that is due within this is kept in memory.
    """
    return all(
        command.due > now + horizon_s if isinstance(command, Arm) else isinstance(command, Begin | Tell)
        for command in awaited
    )


def falls_asleep(plan: Plan, state: ExecutionState, changed_at: float, now: float, horizon_s: float) -> bool:
    """Whether an execution may be forgotten. `changed_at`: when its last transition was made, as the log says."""
    if state.finished or now - changed_at < ASLEEP_AFTER_S:
        return False
    return is_durable_elsewhere(outstanding(plan, state), now, horizon_s)


def may_be_asleep(plan: Plan, state: ExecutionState, changed_at: float, now: float, horizon_s: float) -> bool:
    """Whether somebody may have put an execution to sleep that has been as it is since `changed_at`.

    What would not have been durable elsewhere then has kept it awake ever since: timers only come closer.
    """
    if state.finished or now - changed_at < AWAKE_AFTER_S:
        return False
    return is_durable_elsewhere(outstanding(plan, state), changed_at, horizon_s)
