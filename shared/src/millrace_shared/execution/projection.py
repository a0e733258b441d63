"""The projection: what a transition changes in the tables. Pure, and the only place that knows.

| event | `steps` row | `executions` row |
|---|---|---|
| `execution.started` | | everything of the request |
| `execution.held` | | held; it has not started after all |
| `execution.admitted` | | of the last gate: no longer held; started_at, deadline_at |
| `execution.paused` | | paused; deadline_at |
| `execution.resumed` | | no longer paused; deadline_at |
| `execution.signalled`, `execution.cancel_requested` | | |
| `execution.ending` | | ending; not held, and paused after a failure only; deadline_at |
| `execution.finished` | | final_status, output, error, completed_at |
| `step.queued` | queued | |
| `step.expanded` | running; item_count | |
| `step.scheduled` | pending; attempt, input, child_id | |
| `step.waiting` | waiting; wait_until, wait_reason, signal, input | |
| `step.retry_scheduled` | waiting; wait_until, error, retry_count, usage | retries, usage |
| `step.deferred` | waiting; wait_until, wait_reason, reason, usage | usage |
| `step.answered` | waiting; wait_reason | |
| `step.iterated` | pending; iteration, output, usage | usage |
| `step.reused` | completed; output, reused_from | steps_completed (not for an item) |
| `step.completed` | completed; output, cached, scores, usage | steps_completed (not for an item), usage |
| `step.failed` | failed, or timeout by the error's category; usage | steps_failed (not for an item), usage |
| `step.skipped` | skipped; reason | steps_skipped |
| `step.cancelled` | cancelled; reason | steps_cancelled (not for an item) |

An execution's `status` follows from `final_status`, `paused` and `held` (`tables.status_of`).

An attempt that ended, of an iteration too, or that was deferred also makes a row of `attempts`. What a child execution
used is part of what the step that it performs used: sums over executions must take those at the top only, or those of
one workflow.

`queued` is `pending` to clients: it waits for a free place, and no runner can have begun it.

That a runner has begun an attempt is a fact, not an event, so a step that is being performed is `pending`
here; the SQL view `telemetry.steps_now` shows it as running once the fact has arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from millrace_shared import messages
from millrace_shared.codec import decode_transition
from millrace_shared.errors import MessageInvalid
from millrace_shared.execution.changes import NO_VALUES, Change
from millrace_shared.execution.columns import (
    document,
    error_document,
    failure_status,
    moment,
    request_columns,
    timestamp,
    usage_columns,
    without_nul,
)
from millrace_shared.execution.tables import NO_ITEM
from millrace_shared.messages import NOTHING, ErrorInfo, Event, Transition

EVENTS_PER_TRANSITION = 100_000
"""Spacing of `step_order`: no transition holds this many events, so the order is that of the log."""


def decode(payload: bytes) -> Transition:
    """Decode a log message for projection.

    Postgres holds no NUL in text, so each one becomes U+FFFD: here, once, for every column. The log keeps the
    original.

    Raises:
        MessageInvalid: it is not a transition.
    """
    return decode_transition(without_nul(payload))


def changes(transition: Transition, stream_sequence: int) -> list[Change]:
    """Return what `transition`, stored at `stream_sequence` of EVENTS, changes, in order.

    Raises:
        MessageInvalid: a time in it is not a time.
    """
    try:
        return _Projection(transition).run(stream_sequence)
    except (ValueError, OverflowError, OSError) as error:
        raise MessageInvalid(
            f"version {transition.version} of {transition.execution_id} holds an impossible time: {error}"
        ) from error


_AttemptEnded = (
    messages.StepRetryScheduled
    | messages.StepDeferred
    | messages.StepIterated
    | messages.StepCompleted
    | messages.StepFailed
)


class _Projection:
    """The changes of one transition, as they are collected."""

    __slots__ = ("_add", "_at", "_changes", "_id", "_order", "_set", "_transition")

    def __init__(self, transition: Transition) -> None:
        self._transition = transition
        self._id = transition.execution_id
        self._at = moment(transition.at)
        self._order = transition.version * EVENTS_PER_TRANSITION
        self._changes: list[Change] = []
        self._set: dict[str, Any] = {"updated_at": self._at, "last_version": transition.version}
        self._add: dict[str, Any] = {}

    def run(self, stream_sequence: int) -> list[Change]:
        transition = self._transition
        for event in transition.events:
            _HANDLERS[type(event)](self, event)
            self._order += 1
        self._changes.append(Change("executions", (self._id,), self._set, self._add))
        row = {"stream_sequence": stream_sequence, "at": self._at, "events": transition.events}
        self._changes.append(Change("transitions", (self._id, transition.version), row))
        return self._changes

    def execution_started(self, event: messages.ExecutionStarted) -> None:
        self._set.update(request_columns(event.request), started_at=self._at, deadline_at=moment(event.deadline))

    def execution_held(self, event: messages.ExecutionHeld) -> None:
        held = {"gate": event.gate, "rule": event.rule, "key": event.key, "since": timestamp(self._at)}
        self._set.update(started_at=None, held=held)

    def execution_admitted(self, event: messages.ExecutionAdmitted) -> None:
        if event.deadline is not None:  # that was the last gate: what it waited at them all does not count
            self._set.update(held=None, started_at=self._at, deadline_at=moment(event.deadline))

    def execution_paused(self, event: messages.ExecutionPaused) -> None:
        paused = {"reason": event.reason, "by": event.requested_by, "since": timestamp(self._at)}
        paused["deadline"] = timestamp(moment(event.deadline))
        self._set.update(paused=paused, deadline_at=moment(event.deadline))

    def execution_resumed(self, event: messages.ExecutionResumed) -> None:
        self._set.update(paused=None, deadline_at=moment(event.deadline))

    def no_change(self, event: Event) -> None:
        """The event moves nothing that is shown in a column; `transitions` holds it."""

    def execution_ending(self, event: messages.ExecutionEnding) -> None:
        deadline = moment(event.deadline)
        ending: dict[str, Any] = {"outcome": event.outcome, "since": timestamp(self._at)}
        ending["deadline"] = timestamp(deadline)
        if event.error is not None:
            ending["error"] = error_document(event.error)
        self._set.update(ending=ending, held=None, deadline_at=deadline)
        if event.outcome != "failed":  # after a failure a pause stays: somebody may look before cleanup runs
            self._set["paused"] = None

    def execution_finished(self, event: messages.ExecutionFinished) -> None:
        self._set["final_status"] = event.status
        self._set["output"] = document(event.output)
        self._set["completed_at"] = self._at
        self._set["error"] = error_document(event.error)
        self._set["error_category"] = event.error and event.error.category

    def step_queued(self, event: messages.StepQueued) -> None:
        self._step(event.step, event.item, {"status": "queued"})

    def step_expanded(self, event: messages.StepExpanded) -> None:
        columns = {"status": "running", "item_count": event.count}
        self._step(event.step, None, columns, started_at=self._at)

    def step_scheduled(self, event: messages.StepScheduled) -> None:
        columns: dict[str, Any] = {
            "status": "pending",
            "attempt": event.attempt,
            "wait_until": None,
        }
        if event.attempt <= 1 or event.input != NOTHING:  # after a failed attempt it is the same, and left out
            columns["input"] = document(event.input)
        if event.attempt > 1:
            columns["reason"] = None  # what a deferred attempt waited for
        if event.child:
            columns["child_id"] = event.child
        self._step(event.step, event.item, columns, scheduled_at=self._at)

    def step_waiting(self, event: messages.StepWaiting) -> None:
        columns: dict[str, Any] = {
            "status": "waiting",
            "wait_until": moment(event.until),
            "wait_reason": event.reason,
        }
        if event.signal:
            columns["signal"] = event.signal
        if event.input != NOTHING:
            columns["input"] = document(event.input)
        started = None if event.reason == "breakpoint" else self._at
        self._step(event.step, event.item, columns, started_at=started)

    def step_retry_scheduled(self, event: messages.StepRetryScheduled) -> None:
        columns = {
            "status": "waiting",
            "attempt": event.attempt,
            "wait_until": moment(event.at),
            "wait_reason": "retry",
            "error": error_document(event.error),
            "error_category": event.error.category,
        }
        self._count("retries")
        self._ended(event, columns, event.error)

    def step_deferred(self, event: messages.StepDeferred) -> None:
        columns = {
            "status": "waiting",
            "attempt": event.attempt,
            "wait_until": moment(event.until),
            "wait_reason": event.reason,
            "reason": event.detail or None,
        }
        self._ended(event, columns, None)

    def step_answered(self, event: messages.StepAnswered) -> None:
        columns = {"status": "waiting", "wait_until": self._at, "wait_reason": "retry", "reason": None}
        self._step(event.step, event.item, columns)

    def step_iterated(self, event: messages.StepIterated) -> None:
        columns = {
            "status": "pending",
            "iteration": event.iteration + 1,
            "output": document(event.output),
            "error": None,
            "error_category": None,
        }
        self._ended(event, columns, None)
        columns["attempt"] = event.attempt + 1  # no runner has begun that one

    def step_reused(self, event: messages.StepReused) -> None:
        columns = {
            "status": "completed",
            "output": document(event.output),
            "reused_from": event.execution_id,
            "completed_at": self._at,
        }
        if event.item is None:
            self._count("steps_completed")
        self._step(event.step, event.item, columns, started_at=self._at)

    def step_completed(self, event: messages.StepCompleted) -> None:
        columns: dict[str, Any] = {
            "status": "completed",
            "wait_until": None,
            "output": document(event.output),
            "error": None,
            "error_category": None,
            "completed_at": self._at,
        }
        if event.cached:
            columns["cached"] = True
        if event.scores:
            columns["scores"] = event.scores
        if event.item is None:
            self._count("steps_completed")
        self._ended(event, columns, None)

    def step_failed(self, event: messages.StepFailed) -> None:
        columns = {
            "status": failure_status(event.error),
            "wait_until": None,
            "error": error_document(event.error),
            "error_category": event.error.category,
            "completed_at": self._at,
        }
        if event.item is None:
            self._count("steps_failed")
        self._ended(event, columns, event.error)

    def step_skipped(self, event: messages.StepSkipped) -> None:
        self._count("steps_skipped")
        columns = {"status": "skipped", "reason": event.reason, "completed_at": self._at}
        self._step(event.step, None, columns)

    def step_cancelled(self, event: messages.StepCancelled) -> None:
        if event.item is None:
            self._count("steps_cancelled")
        columns = {
            "status": "cancelled",
            "wait_until": None,
            "reason": event.reason,
            "completed_at": self._at,
        }
        self._step(event.step, event.item, columns)

    def _ended(
        self,
        event: _AttemptEnded,
        columns: dict[str, Any],
        error: ErrorInfo | None,
    ) -> None:
        """An attempt ended, or the orchestrator performed the step itself (attempt 0)."""
        started = None if event.started_at is None else moment(event.started_at)
        finished = self._at if event.finished_at is None else moment(event.finished_at)
        if event.attempt > 0:
            columns["attempt"] = event.attempt
            columns["runner"] = event.runner
            self._attempt(event, error, started, finished)
        elif started is None:
            started = self._at
        used = usage_columns(event.usage)
        add = {**used, "retry_count": 1} if isinstance(event, messages.StepRetryScheduled) else used
        self._step(event.step, event.item, columns, add, started_at=started)
        if used:
            for column, number in used.items():
                self._add[column] = self._add.get(column, 0) + number
            if event.item is not None:  # the step's own row shows what all of its items used
                self._step(event.step, None, {}, used)

    def _attempt(
        self,
        event: _AttemptEnded,
        error: ErrorInfo | None,
        started: datetime | None,
        finished: datetime,
    ) -> None:
        usage, status = event.usage, "completed" if error is None else failure_status(error)
        columns = {
            "status": "deferred" if isinstance(event, messages.StepDeferred) else status,
            "started_at": started,
            "finished_at": finished,
            "error": error_document(error),
            "runner": event.runner,
            "tokens_used": 0 if usage is None else usage.input_tokens + usage.output_tokens,
            "cost_usd": None if usage is None else usage.cost_usd,
            "llm_calls": 0 if usage is None else usage.calls,
        }
        item = NO_ITEM if event.item is None else event.item
        self._changes.append(Change("attempts", (self._id, event.step, item, event.attempt), columns))

    def _count(self, column: str) -> None:
        self._add[column] = self._add.get(column, 0) + 1

    def _step(
        self,
        step: str,
        item: int | None,
        columns: dict[str, Any],
        add: dict[str, Any] | None = None,
        *,
        scheduled_at: datetime | None = None,
        started_at: datetime | None = None,
    ) -> None:
        first: dict[str, Any] = {"step_order": self._order}
        if scheduled_at is not None:
            first["scheduled_at"] = scheduled_at
        if started_at is not None:
            first["started_at"] = started_at
        columns["updated_at"] = self._at
        key = (self._id, step, NO_ITEM if item is None else item)
        self._changes.append(Change("steps", key, columns, add or NO_VALUES, first))


_HANDLERS: dict[type[Any], Callable[[_Projection, Any], None]] = {
    messages.ExecutionStarted: _Projection.execution_started,
    messages.ExecutionHeld: _Projection.execution_held,
    messages.ExecutionAdmitted: _Projection.execution_admitted,
    messages.ExecutionPaused: _Projection.execution_paused,
    messages.ExecutionResumed: _Projection.execution_resumed,
    messages.SignalReceived: _Projection.no_change,
    messages.ExecutionCancelRequested: _Projection.no_change,
    messages.ExecutionEnding: _Projection.execution_ending,
    messages.ExecutionFinished: _Projection.execution_finished,
    messages.StepExpanded: _Projection.step_expanded,
    messages.StepQueued: _Projection.step_queued,
    messages.StepScheduled: _Projection.step_scheduled,
    messages.StepWaiting: _Projection.step_waiting,
    messages.StepReused: _Projection.step_reused,
    messages.StepIterated: _Projection.step_iterated,
    messages.StepRetryScheduled: _Projection.step_retry_scheduled,
    messages.StepDeferred: _Projection.step_deferred,
    messages.StepAnswered: _Projection.step_answered,
    messages.StepCompleted: _Projection.step_completed,
    messages.StepFailed: _Projection.step_failed,
    messages.StepSkipped: _Projection.step_skipped,
    messages.StepCancelled: _Projection.step_cancelled,
}
