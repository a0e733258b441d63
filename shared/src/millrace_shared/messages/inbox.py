"""What comes to an execution's inbox: everything that may move it."""

from __future__ import annotations

import msgspec

from millrace_shared.messages.requests import StartRequest
from millrace_shared.messages.vocabulary import NOTHING, Deferral, ErrorInfo, TimerKind, Usage
from millrace_shared.values import Payload


class StepResult(msgspec.Struct, frozen=True, omit_defaults=True, tag="step_result"):
    """What came of one attempt. Exactly one of `output`, `error` and `deferred` matters.

    `error` and `deferred` are None on success. `cached` says that the output was taken from the result cache: nothing
    was done, and nothing is paid. `scores` are those of the checks of an agent's answer, by their names, from 0 to 1.
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
    deferred: Deferral | None = None
    scores: dict[str, float] = {}


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
