"""What is known about an execution: an immutable value, the fold of its log.

Nothing here is ever changed: `evolve` makes new values that share what stayed the same. So a decision that is not
committed (its fence was lost, a blob must be loaded first) leaves no trace, and a cached state is simply kept or
dropped. The persistent map makes an event cost O(log n) of the steps that have happened, whatever the size of the DAG:
steps that nothing has happened to are not in it.
"""

from __future__ import annotations

from typing import Literal

import immutables
import msgspec

from millrace_shared.messages import NOTHING, ErrorInfo, FinalStatus, StartRequest
from millrace_shared.values import Payload

StepStatus = Literal[
    "pending", "queued", "running", "waiting", "completed", "failed", "timeout", "skipped", "cancelled"
]
SETTLED: frozenset[StepStatus] = frozenset({"completed", "failed", "timeout", "skipped", "cancelled"})


Unit = tuple[str, int | None]
"""A step's id and an item's index, or None for the step itself."""


class Work(msgspec.Struct, frozen=True):
    """One unit that is attempted: a step, or one item of a `for_each` step.

    `due` is when a waiting unit goes on, in Unix seconds: its next attempt, or the end of a `wait` step.
    `queue_position` is its place in the queue, or -1. The work of an expanded `for_each` step stands for the whole; in
    the queue it means "the next item".
    """

    status: StepStatus = "pending"
    attempt: int = 0
    input: Payload = NOTHING
    secrets: dict[str, tuple[str, ...]] = {}
    output: Payload = NOTHING
    error: ErrorInfo | None = None
    due: float = 0.0
    queue_position: int = -1


UNTOUCHED = Work()


class StepState(msgspec.Struct, frozen=True):
    """One step.

    `needs_settled` and the two counts below it decide its run rule. The last five fields are those of a `for_each`
    step: how many items there are (-1: not expanded), the first not yet scheduled, how many are running or waiting for
    a retry, and how many have settled.
    """

    work: Work = UNTOUCHED
    needs_settled: int = 0
    needs_completed: int = 0
    needs_failed: int = 0
    continued: bool = False
    count: int = -1
    next_item: int = 0
    in_flight: int = 0
    items_settled: int = 0
    items: immutables.Map[int, Work] = immutables.Map()

    @property
    def status(self) -> StepStatus:
        """The step's own status; for a `for_each` step that of the whole."""
        return self.work.status

    @property
    def is_expanded(self) -> bool:
        """Whether this is a `for_each` step whose items are known."""
        return self.count >= 0

    def unit(self, item: int | None) -> Work:
        """Return the step's own work, or an item's."""
        return self.work if item is None else self.items.get(item, UNTOUCHED)


UNTOUCHED_STEP = StepState()


class ExecutionState(msgspec.Struct, frozen=True):
    """One execution.

    `running` counts units that a runner has; `settled` counts steps. `queue` holds the units that wait for a free
    place, by position: the lowest is next. `outcome` is set as soon as it is known how the execution will end;
    `finished` when it has.
    """

    request: StartRequest
    deadline: float
    started_at: float
    version: int = 0
    steps: immutables.Map[str, StepState] = immutables.Map()
    settled: int = 0
    running: int = 0
    queue: immutables.Map[int, Unit] = immutables.Map()
    queue_head: int = 0
    queue_tail: int = 0
    outcome: FinalStatus | None = None
    error: ErrorInfo | None = None
    cancel_id: str | None = None
    finished: bool = False

    @property
    def execution_id(self) -> str:
        """The execution's id."""
        return self.request.execution_id

    def step(self, step_id: str) -> StepState:
        """Return a step's state; one that nothing has happened to is pending."""
        return self.steps.get(step_id, UNTOUCHED_STEP)
