"""Events as clients see them: of the log, and of the live feeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from millrace_api.domain.rendering import timestamp, value
from millrace_shared.messages import (
    BudgetBreached,
    Event,
    ExecutionAdmitted,
    ExecutionFinished,
    ExecutionHeld,
    ExecutionPaused,
    ExecutionResumed,
    ExecutionStarted,
    Fact,
    LlmCall,
    StepAnswered,
    StepCompleted,
    StepDeferred,
    StepFailed,
    StepIterated,
    StepRetryScheduled,
    StepReused,
    StepScheduled,
    StepSkipped,
    StepStarted,
    StepWaiting,
    TokenDelta,
    Transition,
)

FACT_NAMES = {
    StepStarted: "step.started",
    LlmCall: "llm.call",
    TokenDelta: "llm.token",
    BudgetBreached: "budget.breached",
}
"""What the facts of the telemetry stream are called in a live feed."""
RESTARTED = "llm.restarted"
"""What a feed says when an answer begins again: what was shown of this turn, and of later ones, is void."""

_TIMES = ("deadline", "until", "started_at", "finished_at", "requested_at")
_VALUES = ("input", "output", "data")


def shown_events(transition: Transition) -> list[dict[str, Any]]:
    """Return the events of a transition; `id` is its version and the event's position in it."""
    at = timestamp(transition.at)
    return [
        {"id": f"{transition.version}.{position}", "version": transition.version, "at": at, **shown(event)}
        for position, event in enumerate(transition.events)
    ]


def shown(event: Event) -> dict[str, Any]:
    """Return one event: its type, and its fields with times as text and values as they are shown elsewhere."""
    fields: dict[str, Any] = msgspec.to_builtins(event)
    if isinstance(event, ExecutionStarted):
        request = fields.pop("request")
        request.pop("type", None)
        request.pop("reuse", None)
        fields["request"] = _readable(request)
    if isinstance(event, StepRetryScheduled):
        fields["retry_at"] = timestamp(fields.pop("at"))
    fields.pop("reuse", None)  # results of another execution, all at once: `origin` names it
    fields.pop("secrets", None)  # names of secrets and where they go: of use to the runner alone
    return _readable(fields)


def shown_fact(fact: Fact) -> dict[str, Any]:
    """Return a fact of the telemetry stream."""
    fields: dict[str, Any] = msgspec.to_builtins(fact)
    fields["type"] = FACT_NAMES[type(fact)]
    if isinstance(fact, TokenDelta) and fact.restarted:
        fields["type"] = RESTARTED
        for name in ("text", "restarted"):
            del fields[name]
    fields["at"] = timestamp(fact.at)
    fields.pop("workspace", None)
    return fields


def _readable(fields: dict[str, Any]) -> dict[str, Any]:
    for name in _TIMES:
        if isinstance(fields.get(name), int | float):
            fields[name] = timestamp(fields[name])
    for name in _VALUES:
        if name in fields:
            fields[name] = value(fields[name])
    return fields


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a transition belongs. `step_names` holds the display names that the author gave.

    An `inline` execution performs a group or a plan: it is a part of one of the workflow's executions, and not shown
    among them.
    """

    workspace: str
    workflow_id: str
    started_at: float | None
    step_names: Mapping[str, str]
    inline: bool = False


WorkflowEvent = tuple[str | None, dict[str, Any]]
"""(step id, or None for an event of the execution itself; the message)."""


def admitted(transition: Transition) -> bool:
    """Tell whether the last gate lets the execution in: only now it starts."""
    return any(isinstance(event, ExecutionAdmitted) and event.deadline is not None for event in transition.events)


def workflow_events(transition: Transition, origin: Origin) -> Iterator[WorkflowEvent]:
    """Yield what the sockets of a workflow and of its steps show of a transition."""
    if origin.inline:
        return
    held = any(isinstance(event, ExecutionHeld) for event in transition.events)
    for event in transition.events:
        shown_as = _EXECUTION_EVENTS.get(type(event))
        if isinstance(event, ExecutionFinished):
            error = None if event.error is None else event.error.message
            yield None, _execution_event(f"workflow_{event.status}", transition, origin, event.status, error)
        elif isinstance(event, ExecutionStarted):
            if not held:  # otherwise it starts when the last gate lets it in
                yield None, _execution_event("workflow_started", transition, origin, "running", None)
        elif isinstance(event, ExecutionAdmitted):
            if event.deadline is not None:
                yield None, _execution_event("workflow_started", transition, origin, "running", None)
        elif shown_as is not None:
            yield None, _execution_event(shown_as[0], transition, origin, shown_as[1], None)
        else:
            yield from _step_events(transition, origin, event)


_EXECUTION_EVENTS: Mapping[type, tuple[str, str]] = {
    ExecutionHeld: ("workflow_queued", "pending"),
    ExecutionPaused: ("workflow_paused", "paused"),
    ExecutionResumed: ("workflow_resumed", "running"),
}


def _step_events(transition: Transition, origin: Origin, event: Event) -> Iterator[WorkflowEvent]:
    match event:
        case StepScheduled():
            if event.attempt <= 1:
                yield event.step, _step_event(origin, "step_started", transition, event, attempt=event.attempt)
        case StepWaiting():
            message = _step_event(origin, "step_waiting", transition, event, attempt=0)
            message["data"].update(reason=event.reason, until=timestamp(event.until), signal=event.signal or None)
            yield event.step, message
        case StepRetryScheduled():
            yield event.step, _step_event(origin, "step_retrying", transition, event, attempt=event.attempt + 1)
        case StepDeferred():
            message = _step_event(origin, "step_deferred", transition, event, attempt=event.attempt)
            message["data"].update(reason=event.reason, until=timestamp(event.until), detail=event.detail)
            yield event.step, message
        case StepAnswered():
            message = _step_event(origin, "step_answered", transition, event, attempt=0)
            message["data"].update(approved=event.answer.approved, by=event.answer.by or None)
            yield event.step, message
        case StepIterated():
            message = _step_event(origin, "step_iterated", transition, event, attempt=event.attempt)
            message["data"]["iteration"] = event.iteration
            yield event.step, message
        case StepCompleted():
            message = _step_event(origin, "step_completed", transition, event, attempt=event.attempt)
            message["data"]["cached"] = event.cached
            yield event.step, message
        case StepReused():
            message = _step_event(origin, "step_completed", transition, event, attempt=0)
            message["data"]["reused_from"] = event.execution_id
            yield event.step, message
        case StepFailed():
            yield event.step, _step_event(origin, "step_failed", transition, event, attempt=event.attempt)
        case StepSkipped():
            yield event.step, _step_event(origin, "step_skipped", transition, event, attempt=0)
        case _:
            pass


def _execution_event(
    name: str, transition: Transition, origin: Origin, status: str, error: str | None
) -> dict[str, Any]:
    duration = None
    if status != "running" and origin.started_at is not None:
        duration = max(0.0, round(transition.at - origin.started_at, 6))
    return {
        "event": name,
        "data": {
            "execution_id": transition.execution_id,
            "workflow_id": origin.workflow_id,
            "timestamp": timestamp(transition.at),
            "status": status,
            "duration_seconds": duration,
            "error": error,
        },
    }


_StepEvent = (
    StepScheduled
    | StepWaiting
    | StepRetryScheduled
    | StepDeferred
    | StepAnswered
    | StepIterated
    | StepCompleted
    | StepReused
    | StepFailed
    | StepSkipped
)


def _step_event(
    origin: Origin,
    name: str,
    transition: Transition,
    event: _StepEvent,
    *,
    attempt: int,
) -> dict[str, Any]:
    started = getattr(event, "started_at", None)
    finished = getattr(event, "finished_at", None)
    error = getattr(event, "error", None)
    output = event.output if isinstance(event, StepCompleted | StepReused | StepIterated) else None
    return {
        "event": name,
        "data": {
            "execution_id": transition.execution_id,
            "step_id": event.step,
            "step_name": origin.step_names.get(event.step, event.step),
            "item": getattr(event, "item", None),
            "duration_seconds": (
                None if started is None or finished is None else max(0.0, round(finished - started, 6))
            ),
            "output": None if output is None else value(msgspec.to_builtins(output)),
            "error": None if error is None else error.message,
            "retry_count": max(0, attempt - 1),
            "timestamp": timestamp(transition.at),
        },
    }
