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

from millrace_shared.messages import (
    NOTHING,
    Answer,
    ErrorInfo,
    ExecutionHeld,
    FinalStatus,
    SignalReceived,
    StartRequest,
    Usage,
    WaitReason,
)
from millrace_shared.values import Payload

StepStatus = Literal[
    "pending", "queued", "running", "waiting", "completed", "failed", "timeout", "skipped", "cancelled"
]
SETTLED: frozenset[StepStatus] = frozenset({"completed", "failed", "timeout", "skipped", "cancelled"})


Unit = tuple[str, int | None]
"""A step's id and an item's index, or None for the step itself."""

HELD_S_MAX = 30 * 24 * 3600.0
"""An execution that waits at gates, or is paused, for longer than this times out: no wait is without an end."""


class Work(msgspec.Struct, frozen=True):
    """One unit that is attempted: a step, or one item of a `for_each` step.

    The work of an expanded `for_each` step stands for the whole; in the queue it means "the next item".

    Attributes:
        status: where it is; `tables.py` says what may follow.
        attempt: the attempt that runs, or ran last. Iterations of a `repeat` count on.
        base: the last attempt of the iteration before: retries are counted from there.
        deferred: how many attempts of this iteration gave their place back: these do not count as tried.
        iteration: how many iterations have completed, and another one followed.
        previous: the output of the last of these.
        input: what the attempts of this iteration are given, but for `secrets` (see `StepScheduled`).
        is_resolved: `input` was settled at a breakpoint, before the first attempt.
        due: when a waiting unit goes on, in Unix seconds.
        waits_for: what a waiting unit waits for; None: for its next attempt.
        ask: the question that its last attempt has asked, while it waits for an answer.
        answers: those that its attempts got in this iteration.
        at: when the attempt was handed out, in Unix seconds.
        plan: content hash of the definition that an attempt of a `plan` step runs.
        cache: key of its result in the result cache.
        reuse: what the child of the attempt takes over (see `StartRequest`).
        crowded: the attempt went to the lane behind the others.
        queue_position: its place in the queue, or -1.
    """

    status: StepStatus = "pending"
    attempt: int = 0
    base: int = 0
    deferred: int = 0
    iteration: int = 0
    previous: Payload = NOTHING
    input: Payload = NOTHING
    secrets: dict[str, tuple[str, ...]] = {}
    is_resolved: bool = False
    output: Payload = NOTHING
    error: ErrorInfo | None = None
    due: float = 0.0
    waits_for: WaitReason | None = None
    ask: str = ""
    answers: tuple[Answer, ...] = ()
    at: float = 0.0
    plan: str = ""
    cache: str = ""
    reuse: Payload = NOTHING
    crowded: bool = False
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


PAUSES_REMEMBERED = 100
"""Ids of pauses that are known: who sends one again has not been asleep for longer than so many."""


class Pause(msgspec.Struct, frozen=True):
    """A pause: its id, since when it puts off which deadline (Unix seconds). It stays known when it has ended."""

    id: str
    since: float
    deadline: float


class ExecutionState(msgspec.Struct, frozen=True):
    """One execution.

    Attributes:
        request: what it was accepted with.
        deadline: when it is timed out, in Unix seconds.
        started_at: when its log began.
        finished_at: when it ended.
        version: how many transitions its log has.
        steps: those that something has happened to.
        settled: how many of them have settled.
        running: how many units are under way: a runner has them, or a child execution.
        queue: the units that wait for a free place, by position: the lowest is next.
        gates: the gates of flow control that it has come to, in order.
        is_held: whether it waits at the last of them.
        pause: the last pause.
        pause_ids: the last ones: one that comes again, however late, is told by its id.
        is_paused: whether that still lasts.
        signals: signals that nobody has waited for yet, oldest first.
        signal_ids: all that ever came: a repeated one is told by its id.
        spent: what its steps, and those of its children, have used.
        output: its results, once it has completed.
        outcome: how it will end, as soon as that is known.
        finished: whether it has.
    """

    request: StartRequest
    deadline: float
    started_at: float
    finished_at: float = 0.0
    version: int = 0
    steps: immutables.Map[str, StepState] = immutables.Map()
    settled: int = 0
    running: int = 0
    queue: immutables.Map[int, Unit] = immutables.Map()
    queue_head: int = 0
    queue_tail: int = 0
    gates: tuple[ExecutionHeld, ...] = ()
    is_held: bool = False
    pause: Pause | None = None
    pause_ids: tuple[str, ...] = ()
    is_paused: bool = False
    signals: tuple[SignalReceived, ...] = ()
    signal_ids: immutables.Map[str, bool] = immutables.Map()
    spent: Usage = Usage()
    output: Payload = NOTHING
    outcome: FinalStatus | None = None
    error: ErrorInfo | None = None
    cancel_id: str | None = None
    finished: bool = False

    @property
    def execution_id(self) -> str:
        """The execution's id."""
        return self.request.execution_id

    @property
    def own_deadline(self) -> float:
        """The deadline of the execution itself, which a pause puts off but does not change."""
        return self.pause.deadline if self.pause is not None and self.is_paused else self.deadline

    @property
    def may_begin(self) -> bool:
        """Whether anything may begin now: neither a pause nor a gate is in the way."""
        return not (self.is_paused or self.is_held)

    def step(self, step_id: str) -> StepState:
        """Return a step's state; one that nothing has happened to is pending."""
        return self.steps.get(step_id, UNTOUCHED_STEP)
