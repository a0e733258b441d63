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

LOG_VERSION = 1
"""Version of the shape of `Transition` and its events. Moving it needs an upcaster and a recorded log in the tests."""

Priority = Literal["high", "normal", "low"]
WorkKind = Literal["agent", "http", "python"]
TimerKind = Literal["retry", "wait", "execution_timeout"]
FinalStatus = Literal["completed", "failed", "cancelled", "timeout"]
"""How an execution may end."""

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
    """What LLM calls used. `cost_usd` is None when a price is unknown: unknown is not free."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None


class StartRequest(msgspec.Struct, frozen=True, omit_defaults=True, tag="start"):
    """Acceptance of an execution: stored once on `in.<p>.<exec>.start`.

    It stays unacknowledged until the execution ends: it is the lease on it (ADR 0004).
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


class StepResult(msgspec.Struct, frozen=True, omit_defaults=True, tag="step_result"):
    """What came of one attempt. Exactly one of `output` and `error` matters: `error` is None on success."""

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


InboxMessage = StartRequest | StepResult | TimerFired | CancelRequest


class ExecutionStarted(msgspec.Struct, frozen=True, omit_defaults=True, tag="execution.started"):
    """The first event of every log: the request, and the deadline that its definition sets."""

    request: StartRequest
    deadline: float


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
    and whose odd parts are names of secrets. Attempts after the first leave both out, since they are the same.
    """

    step: str
    attempt: int
    item: int | None = None
    input: Payload = NOTHING
    secrets: dict[str, tuple[str, ...]] = {}


class StepWaiting(msgspec.Struct, frozen=True, omit_defaults=True, tag="step.waiting"):
    """A `wait` step sleeps until `until` (Unix seconds)."""

    step: str
    until: float
    item: int | None = None


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
    """A step, or one item of it, has its output. Nothing changes it any more."""

    step: str
    attempt: int = 0
    item: int | None = None
    output: Payload = NOTHING
    started_at: float | None = None
    finished_at: float | None = None
    usage: Usage | None = None
    runner: str = ""


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
    | ExecutionCancelRequested
    | ExecutionEnding
    | ExecutionFinished
    | StepExpanded
    | StepQueued
    | StepScheduled
    | StepWaiting
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
    performed already: the runner looks for its result first.
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
    """A message that could not be processed: where it came from, why, and its bytes (base64 in JSON)."""

    stream: str
    subject: str
    reason: str
    service: str
    at: float
    payload: bytes
    sequence: int = 0
    truncated: bool = False
