"""What travels on the bus: requests, inbox messages, transitions with their events, work, and facts.

All of it is msgspec: the log is decoded by three services for every step, and these types decode in microseconds.
Times are Unix seconds (float); durations end in `_s`. A value that may be large is a `Payload`, whose big parts are
claim-checked blobs. Optional fields are left out when they hold their default, so messages stay small.

The log outlives the code, so a `Transition` carries the version of its shape (`v`): `upcast.py` lifts old ones.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import msgspec

from millrace_shared.values import Payload

LOG_VERSION = 2
"""Version of the shape of `Transition` and its events. Moving it needs an upcaster and a recorded log in the tests."""

Priority = Literal["high", "normal", "low"]
WorkKind = Literal["agent", "http", "python"]
TimerKind = Literal["retry", "wait", "execution_timeout", "gate"]
FinalStatus = Literal["completed", "failed", "cancelled", "timeout"]
"""How an execution may end."""

WaitReason = Literal["delay", "until", "signal", "approval", "breakpoint"]
"""What a waiting step waits for."""

OriginKind = Literal["retry", "fork", "replay", "cron", "event", "webhook", "alert"]
"""What an execution was started by, other than a plain request."""

WORK_KINDS: tuple[WorkKind, ...] = ("agent", "http", "python")
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")

NOTHING = Payload()


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something failed, in terms that people, dashboards and retry rules share.

    `message` says what happened, to what, and what to do, and never holds a secret. `category` is what retry rules and
    dashboards count by. `retry_after_s` is the least wait that the other side asked for.
    """

    code: str
    category: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None
    detail: dict[str, Any] = {}


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What LLM calls used. `cost_usd` is None when a price is unknown: unknown is not free.

    In a sum `cost_usd` is that of the calls whose price is known, and `unpriced` counts the others.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None
    unpriced: int = 0


class Parent(msgspec.Struct, frozen=True, omit_defaults=True):
    """The step attempt that an execution is performed for.

    `root` is the execution at the top, and `depth` how far below it this one is, from 1. `inline` says that it runs a
    group or a plan of its parent's workflow, and so is no execution of its own to people who count them.
    """

    execution_id: str
    step: str
    attempt: int
    root: str
    depth: int
    item: int | None = None
    inline: bool = False


class Use(msgspec.Struct, frozen=True):
    """The version of a workflow that a `workflow` step of its name runs, as it was when the execution was accepted."""

    workflow_id: str
    version: int
    definition: str


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an execution comes from: another one (`retry`, `fork`, `replay`), or a trigger.

    `execution_id` and `step` say which one, and from which step on; `trigger_id` which trigger.
    """

    kind: OriginKind
    execution_id: str = ""
    step: str = ""
    trigger_id: str = ""


class ReusedStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an earlier execution has of a step: its output, or those of some items, or of steps of its child."""

    output: Payload | None = None
    items: dict[int, Payload] = {}
    child: Reuse | None = None


class Reuse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Results that are taken over from the execution `execution_id` in place of running their steps."""

    execution_id: str
    steps: dict[str, ReusedStep] = {}


class StartRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="start"):
    """Acceptance of an execution: stored once on `in.<p>.<exec>.start`.

    It stays unacknowledged until the execution ends: it is the lease on it (ADR 0004).

    Attributes:
        definition: content hash of the definition that is run.
        part: the groups on the way to the one that this execution runs, by step ids, `outer/inner`; empty: the whole.
        parent: the step attempt that waits for this execution; None at the top.
        uses: the workflows that `workflow` steps run, by the name (or `name@version`) that the definition gives.
        deadline: Unix seconds at which the parent times out; the execution's own limit may come first.
        budget_usd: what is left of the parent's budget; the definition's own may be less.
        reuse: a `Reuse` as JSON, possibly claim-checked as a whole: results that need not be paid again.
        breakpoints: steps that are held before they begin; `*` is every one.
    """

    execution_id: str
    workspace: str
    workflow_id: str
    workflow_name: str
    workflow_version: int
    definition: str
    requested_at: float
    input: Payload = NOTHING
    execution_name: str | None = None
    labels: dict[str, str] = {}
    priority: Priority = "normal"
    requested_by: str = ""
    traceparent: str | None = None
    part: str = ""
    parent: Parent | None = None
    uses: dict[str, Use] = {}
    deadline: float | None = None
    budget_usd: Decimal | None = None
    origin: Origin | None = None
    reuse: Payload = NOTHING
    breakpoints: tuple[str, ...] = ()


class StepResult(msgspec.Struct, frozen=True, omit_defaults=True, tag="step_result"):
    """What came of one attempt. Exactly one of `output` and `error` matters: `error` is None on success.

    `cached` says that the output was taken from the result cache: nothing was done, and nothing is paid.
    """

    execution_id: str
    step: str
    attempt: int
    started_at: float
    finished_at: float
    item: int | None = None
    output: Payload = NOTHING
    error: ErrorInfo | None = None
    usage: Usage | None = None
    runner: str = ""
    cached: bool = False


class TimerFired(msgspec.Struct, frozen=True, omit_defaults=True, tag="timer"):
    """A deadline was reached. `kind` says which; a timer that no longer applies is ignored by the state machine."""

    execution_id: str
    kind: TimerKind
    step: str = ""
    item: int | None = None
    attempt: int = 0


class CancelRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="cancel"):
    """Somebody wants the execution to stop. What has completed stays completed; cleanup steps still run.

    `id` tells a repeated delivery from a second request, which stops the cleanup steps as well.
    """

    execution_id: str
    id: str = ""
    reason: str = ""
    requested_by: str = ""


class PauseRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="pause"):
    """Nothing new shall start until it is resumed. What runs may finish."""

    execution_id: str
    id: str = ""
    reason: str = ""
    requested_by: str = ""


class ResumeRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="resume"):
    """A paused execution shall go on. With `of`, only if that is the id of the pause that it is in."""

    execution_id: str
    id: str = ""
    of: str = ""
    requested_by: str = ""


class SignalRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="signal"):
    """Something outside has happened that steps wait for, or will. `id` tells a repeated delivery from a second one."""

    execution_id: str
    id: str
    name: str
    data: Payload = NOTHING
    requested_by: str = ""


class VerdictRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="verdict"):
    """Somebody approves or rejects. `data` is what they entered into the form; the api has checked it."""

    execution_id: str
    id: str
    step: str
    approved: bool
    item: int | None = None
    note: str = ""
    data: Payload = NOTHING
    requested_by: str = ""


class ContinueRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="continue"):
    """A step that is held at a breakpoint shall go on, with `input` in place of its own when `edited`."""

    execution_id: str
    id: str
    step: str
    item: int | None = None
    edited: bool = False
    input: Payload = NOTHING
    requested_by: str = ""


class Admission(msgspec.Struct, frozen=True, omit_defaults=True, tag="admission"):
    """What a gate says to an execution that waits at it. Without `admitted` it ends, for `reason`."""

    execution_id: str
    gate: str
    admitted: bool
    reason: str = ""


InboxMessage = (
    StartRequest
    | StepResult
    | TimerFired
    | CancelRequest
    | PauseRequest
    | ResumeRequest
    | SignalRequest
    | VerdictRequest
    | ContinueRequest
    | Admission
)


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
    iteration of a `repeat` has its own first attempt. `child` is the id of the execution that performs the attempt of a
    `workflow`, `group` or `plan` step, and `plan` the content hash of a plan's definition. `cache` is the key of its result in the
    cache, and `reuse` what the child takes over. `crowded` says that its
    workspace had more than its share of the runners' work queued: the attempt goes to the lane behind the others.
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


class StepCompleted(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.completed"):
    """A step, or one item of it, has its output. Nothing changes it any more.

    `signal` is the id of the signal that it waited for and took.
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


class RunStep(msgspec.Struct, frozen=True, omit_defaults=True, tag="run_step"):
    """The work message: everything a runner needs for one attempt, except the values of secrets.

    `spec` is the static part of the step from the definition (`plan.py` of the orchestrator builds it); `input` is
    resolved but for `secrets` (see `StepScheduled`). The runner ends the attempt `timeout_s` after it began, and in any
    case at `deadline` (Unix seconds), when the execution itself times out. `again` says that the attempt may have been
    performed already: the runner looks for its result first. `cache` is the key under which the result is looked up
    before and kept afterwards, for `cache_ttl_s`; empty: not cached.
    """

    execution_id: str
    workspace: str
    workflow_id: str
    workflow_name: str
    workflow_version: int
    step: str
    attempt: int
    kind: WorkKind
    timeout_s: float
    deadline: float
    spec: msgspec.Raw = msgspec.Raw(b"{}")
    input: Payload = NOTHING
    secrets: dict[str, tuple[str, ...]] = {}
    item: int | None = None
    traceparent: str | None = None
    again: bool = False
    cache: str = ""
    cache_ttl_s: float = 0.0


class StepStarted(msgspec.Struct, frozen=True, omit_defaults=True, tag="step_started"):
    """A runner has begun an attempt that takes a while. A short one is told by its result alone."""

    execution_id: str
    step: str
    attempt: int
    at: float
    item: int | None = None
    runner: str = ""


class LlmCall(msgspec.Struct, frozen=True, omit_defaults=True, tag="llm_call"):
    """One call to a model, as it was made."""

    execution_id: str
    workspace: str
    workflow_id: str
    step: str
    attempt: int
    sequence: int
    provider: str
    model: str
    at: float
    duration_s: float
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal | None = None
    price_version: str | None = None
    time_to_first_token_s: float | None = None
    finish_reason: str | None = None
    error: ErrorInfo | None = None
    item: int | None = None


class TokenDelta(msgspec.Struct, frozen=True, omit_defaults=True, tag="token_delta"):
    """A piece of a model's streamed answer, for live viewers."""

    execution_id: str
    step: str
    attempt: int
    sequence: int
    text: str
    at: float
    item: int | None = None


Fact = StepStarted | LlmCall | TokenDelta


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message that could not be processed: where it came from, why, and its bytes (base64 in JSON).

    `headers` are those of its headers that whoever sends it again must send, too.
    """

    stream: str
    subject: str
    reason: str
    service: str
    at: float
    payload: bytes
    sequence: int = 0
    truncated: bool = False
    headers: dict[str, str] = {}
