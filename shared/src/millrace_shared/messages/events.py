"""The log: what has happened to an execution, for good.

The log outlives the code, so a `Transition` carries the version of its shape (`v`): `upcast.py` lifts old ones.
"""

from __future__ import annotations

import msgspec

from millrace_shared.messages.requests import StartRequest
from millrace_shared.messages.vocabulary import (
    NOTHING,
    Answer,
    DeferralReason,
    ErrorInfo,
    FinalStatus,
    Usage,
    WaitReason,
)
from millrace_shared.values import Payload

LOG_VERSION = 2
"""Version of the shape of `Transition` and its events. Moving it needs an upcaster and a recorded log in the tests."""


class ExecutionStarted(msgspec.Struct, frozen=True, omit_defaults=True, tag="execution.started"):
    """The first event of every log: the request, and the deadline that its definition sets."""

    request: StartRequest
    deadline: float


class ExecutionHeld(msgspec.Struct, frozen=True, omit_defaults=True, tag="execution.held"):
    """The execution waits at a gate of flow control before its first step.

    `gate` is the gate's id; `rule` and `key` say to people which it is: `concurrency`, `throttle` or `debounce`.
    """

    gate: str
    rule: str
    key: str = ""


class ExecutionAdmitted(msgspec.Struct, frozen=True, omit_defaults=True, tag="execution.admitted"):
    """A gate lets the execution pass. `deadline` (Unix seconds) is set with the last one: waiting does not count."""

    gate: str
    deadline: float | None = None


class ExecutionPaused(msgspec.Struct, frozen=True, omit_defaults=True, tag="execution.paused"):
    """Nothing new starts until it is resumed; at `deadline` (Unix seconds) nobody has resumed it, and it times out."""

    deadline: float
    id: str = ""
    reason: str = ""
    requested_by: str = ""


class ExecutionResumed(msgspec.Struct, frozen=True, omit_defaults=True, tag="execution.resumed"):
    """It goes on. The time of the pause does not count: `deadline` (Unix seconds) has moved."""

    deadline: float
    id: str = ""
    requested_by: str = ""


class SignalReceived(msgspec.Struct, frozen=True, omit_defaults=True, tag="execution.signalled"):
    """A signal came. The oldest step that waits for it takes it; else it is kept for the next that will."""

    id: str
    name: str
    data: Payload = NOTHING
    requested_by: str = ""


class ExecutionCancelRequested(msgspec.Struct, frozen=True, omit_defaults=True, tag="execution.cancel_requested"):
    """A cancel was accepted. Nothing new starts but `always` steps."""

    id: str = ""
    reason: str = ""
    requested_by: str = ""


class ExecutionEnding(msgspec.Struct, frozen=True, omit_defaults=True, tag="execution.ending"):
    """The outcome is settled, but running work and cleanup steps are not through yet.

    At `deadline` (Unix seconds) what still runs is cut off, cleanup included.
    """

    outcome: FinalStatus
    deadline: float
    error: ErrorInfo | None = None


class ExecutionFinished(msgspec.Struct, frozen=True, omit_defaults=True, tag="execution.finished"):
    """The last event of every log."""

    status: FinalStatus
    output: Payload = NOTHING
    error: ErrorInfo | None = None


class StepExpanded(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.expanded"):
    """A `for_each` step became `count` items, each scheduled on its own."""

    step: str
    count: int


class StepQueued(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.queued"):
    """A step or item may run, and waits because as many as may run at once are running."""

    step: str
    item: int | None = None


class StepScheduled(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.scheduled"):
    """An attempt was handed to the runners. The work message follows from this event and the definition.

    `input` is resolved but for secrets: at each JSON pointer of `secrets` belongs a text whose even parts are literal
    and whose odd parts are names of secrets. Attempts after the first leave both out, since they are the same; each
    iteration of a `repeat` has its own first attempt.

    `child` is the id of the execution that performs the attempt of a `workflow`, `group` or `plan` step, `plan` the
    content hash of a plan's definition, and `reuse` what the child takes over. `cache` is the key of its result in the
    cache. `crowded` says that its workspace had more than its share of the runners' work queued: the attempt goes to
    the lane behind the others.
    """

    step: str
    attempt: int
    item: int | None = None
    input: Payload = NOTHING
    secrets: dict[str, tuple[str, ...]] = {}
    child: str = ""
    plan: str = ""
    cache: str = ""
    reuse: Payload = NOTHING
    crowded: bool = False


class StepWaiting(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.waiting"):
    """A step waits for `reason`, at most until `until` (Unix seconds).

    `input` is what the step was given: an approval's question, or the resolved input of a step held at a breakpoint.
    """

    step: str
    until: float
    item: int | None = None
    reason: WaitReason = "delay"
    input: Payload = NOTHING
    secrets: dict[str, tuple[str, ...]] = {}
    signal: str = ""


class StepReused(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.reused"):
    """A step, or one item of it, takes over the output that it has in the execution `execution_id`. Nothing is paid."""

    step: str
    execution_id: str
    item: int | None = None
    output: Payload = NOTHING


class StepIterated(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.iterated"):
    """Iteration `iteration` (from 1) of a `repeat` completed with `output`, and another one follows."""

    step: str
    iteration: int
    attempt: int = 0
    item: int | None = None
    output: Payload = NOTHING
    started_at: float | None = None
    finished_at: float | None = None
    usage: Usage | None = None
    runner: str = ""
    cached: bool = False


class StepRetryScheduled(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.retry_scheduled"):
    """Attempt `attempt` failed with `error`, and the next one starts at `at`."""

    step: str
    attempt: int
    at: float
    error: ErrorInfo
    item: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    usage: Usage | None = None
    runner: str = ""


class StepDeferred(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.deferred"):
    """Attempt `attempt` gave its place back: it waits for `reason`, at most until `until` (Unix seconds).

    With the reason `approval` it has asked the question `ask`, which `question` holds; see `Deferral`.
    """

    step: str
    attempt: int
    until: float
    reason: DeferralReason
    detail: str = ""
    ask: str = ""
    question: Payload = NOTHING
    item: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    usage: Usage | None = None
    runner: str = ""


class StepAnswered(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.answered"):
    """The question of a deferred attempt has its answer, or nobody answered in time. The next attempt follows."""

    step: str
    answer: Answer
    item: int | None = None


class StepCompleted(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.completed"):
    """A step, or one item of it, has its output. Nothing changes it any more.

    `signal` is the id of the signal that it waited for and took. `scores` are those of an agent's checks.
    """

    step: str
    attempt: int = 0
    item: int | None = None
    output: Payload = NOTHING
    started_at: float | None = None
    finished_at: float | None = None
    usage: Usage | None = None
    runner: str = ""
    cached: bool = False
    signal: str = ""
    scores: dict[str, float] = {}


class StepFailed(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.failed"):
    """A step, or one item of it, failed for good. `continued`: `on_error: continue` lets the others go on."""

    step: str
    error: ErrorInfo
    attempt: int = 0
    item: int | None = None
    continued: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    usage: Usage | None = None
    runner: str = ""


class StepSkipped(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.skipped"):
    """A step will not run: its rule or its condition says so."""

    step: str
    reason: str = ""


class StepCancelled(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.cancelled"):
    """A step, or one item of it, was stopped because the execution ends."""

    step: str
    item: int | None = None
    reason: str = ""


Event = (
    ExecutionStarted
    | ExecutionHeld
    | ExecutionAdmitted
    | ExecutionPaused
    | ExecutionResumed
    | SignalReceived
    | ExecutionCancelRequested
    | ExecutionEnding
    | ExecutionFinished
    | StepExpanded
    | StepQueued
    | StepScheduled
    | StepWaiting
    | StepReused
    | StepIterated
    | StepRetryScheduled
    | StepDeferred
    | StepAnswered
    | StepCompleted
    | StepFailed
    | StepSkipped
    | StepCancelled
)


class Transition(msgspec.Struct, frozen=True):
    """One message of an execution's log: what happened at once, and so what is durable at once.

    `version` counts from 1 within the execution. `at` is when it was decided, in Unix seconds.
    """

    v: int
    execution_id: str
    version: int
    at: float
    events: tuple[Event, ...]
