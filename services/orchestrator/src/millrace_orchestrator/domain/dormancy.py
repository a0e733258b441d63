"""Dormant executions: nothing of them runs, and everything that they wait for is durable somewhere else.

Such an execution needs nobody to remember it. Its timers are schedules of the NATS server, signals and verdicts come to
its inbox, its children tell it of their end. So it gives back its lease and leaves memory; a message brings it back.

When it falls asleep and when it is woken are told from the log and the clock, without a word in the log. An execution
falls asleep `asleep_after_s` after its last transition at the earliest. Whoever moves one on that has been quiet for
`awake_after_s` takes it for asleep, whatever it remembers, and puts a new lease. So whoever puts one to sleep cannot
have missed a transition that was made without a new lease, even if it acknowledges the old lease hours later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from millrace_orchestrator.domain.commands import Arm, Begin, Command, Tell, outstanding
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import ExecutionState


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When executions may fall asleep. All orchestrators must have the same.

    Attributes:
        horizon_s: a timer that is due within this is kept in memory, and its execution awake.
        asleep_after_s: who has been quiet for this long may be put to sleep.
        awake_after_s: who has been quiet for less has certainly not been; the difference is what clocks may differ by.
    """

    horizon_s: float
    asleep_after_s: float = 15.0
    awake_after_s: float = 5.0


def is_durable_elsewhere(awaited: Iterable[Command], now: float, rhythm: Rhythm) -> bool:
    """Whether nobody need remember what an execution waits for: children tell of their end, and timers are far."""
    return all(
        command.due > now + rhythm.horizon_s if isinstance(command, Arm) else isinstance(command, Begin | Tell)
        for command in awaited
    )


def falls_asleep(plan: Plan, state: ExecutionState, changed_at: float, now: float, rhythm: Rhythm) -> bool:
    """Whether an execution may be forgotten. `changed_at`: when its last transition was made, as the log says."""
    if state.finished or now - changed_at < rhythm.asleep_after_s:
        return False
    return is_durable_elsewhere(outstanding(plan, state), now, rhythm)


def may_be_asleep(plan: Plan, state: ExecutionState, changed_at: float, now: float, rhythm: Rhythm) -> bool:
    """Whether somebody may have put an execution to sleep that has been as it is since `changed_at`.

    What would not have been durable elsewhere then has kept it awake ever since: timers only come closer.
    """
    if state.finished or now - changed_at < rhythm.awake_after_s:
        return False
    return is_durable_elsewhere(outstanding(plan, state), changed_at, rhythm)
