"""A decision in the making: the state so far, the events so far, and the steps still to be looked at."""

from __future__ import annotations

from collections import deque
from typing import Any

from millrace_orchestrator.domain.errors import NotStarted
from millrace_orchestrator.domain.evolve import evolve
from millrace_orchestrator.domain.fairness import CROWD
from millrace_orchestrator.domain.plan import Plan, PlannedStep
from millrace_orchestrator.domain.scope import Loaded
from millrace_orchestrator.domain.state import ExecutionState
from millrace_shared.expressions.program import Evaluate
from millrace_shared.messages import Event


class Draft:
    """Collects events; each is applied to the state as it is emitted, so later rules see it.

    `worklist` holds steps one of whose needs has just settled. `scheduled` counts attempts handed out in this decision.
    `memo` remembers the lists of `for_each` steps, by step id: they never change once they can be read. `definitions`
    are those of dynamic plans, by content hash: they must be stored before the events are. `crowded` says that the
    workspace has more than its share of work under way.
    """

    def __init__(
        self,
        plan: Plan,
        state: ExecutionState | None,
        now: float,
        evaluate: Evaluate,
        loaded: Loaded,
        memo: dict[str, list[Any]],
        crowded: bool = False,
    ) -> None:
        self.plan = plan
        self.state_or_none = state
        self.now = now
        self.evaluate = evaluate
        self.loaded = loaded
        self.memo = memo
        self._crowded = crowded
        self.definitions: dict[str, bytes] = {}
        self.events: list[Event] = []
        self.worklist: deque[str] = deque()
        self.scheduled = 0

    @property
    def crowded(self) -> bool:
        """Whether the next attempt is one more than the workspace's share, with those of this decision."""
        return self._crowded or self.scheduled > CROWD

    @property
    def state(self) -> ExecutionState:
        """The state after the events so far. Only for an execution that has started."""
        if self.state_or_none is None:
            raise NotStarted("there is no execution yet")
        return self.state_or_none

    def emit(self, event: Event) -> None:
        """Add an event, and apply it."""
        self.state_or_none = evolve(self.plan, self.state_or_none, event, self.now)
        self.events.append(event)

    def latest(self, deadline: float) -> float:
        """Return a deadline, but no later than the one that the parent sets, which pauses may have put off."""
        state = self.state
        return deadline if state.request.deadline is None else min(deadline, state.own_deadline)

    def may_start(self, step: PlannedStep) -> bool:
        """Whether an attempt of `step` may still begin: once the outcome is settled, only cleanup does."""
        return self.state.outcome is None or step.is_cleanup
