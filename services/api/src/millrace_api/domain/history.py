"""What an execution's log says about the execution and its steps, as far as steering and reuse need to know.

The projection's rows are for people; this is the exact fold: what every step and item has, waits for and came to, and
the ids of the requests that were granted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

import msgspec

from millrace_shared import messages
from millrace_shared.messages import NOTHING, ErrorInfo, Event, StartRequest, StepDeferred, StepWaiting, Transition
from millrace_shared.values import Payload

DECISION_ID = "decision_id"
"""Where an approval's output, or the detail of its error, names the verdict that it came from."""

UnitStatus = Literal["pending", "running", "waiting", "completed", "failed", "skipped", "cancelled"]
SETTLED: frozenset[UnitStatus] = frozenset({"completed", "failed", "skipped", "cancelled"})

Unit = tuple[str, int | None]
"""A step's id and an item's index, or None for the step itself."""


class UnitState(msgspec.Struct):
    """One step, or one item of a `for_each` step.

    Attributes:
        status: where it is; a timeout is a failure.
        waiting: what it waits for, while it is `waiting`; None between two attempts.
        asked: how its last attempt asked people something, while they have not answered.
        input: what its attempt was given; None while it has none.
        output: what it came to, once it is completed.
        error: why it failed for good.
        child: the execution that performs its attempt, or performed the last one; empty for steps that have none.
        settled_at: when it came to its end, in Unix seconds.
    """

    status: UnitStatus = "pending"
    waiting: StepWaiting | None = None
    asked: StepDeferred | None = None
    input: Payload | None = None
    output: Payload = NOTHING
    error: ErrorInfo | None = None
    child: str = ""
    settled_at: float = 0.0


class History:
    """The fold of one execution's log, as far as it was applied.

    Attributes:
        request: what it began with; None while the log is empty.
        version: of the last transition applied.
        held: the gate that it waits at before its first step.
        pause: the pause that it is in.
        ending: how it will end, once that is settled.
        finished: its end.
        units: what every step and item that was reached has come to.
        granted: ids of the requests (pause, resume, signal, verdict) that took effect.
        signals: ids of the signals that came.
    """

    def __init__(self) -> None:
        self.request: StartRequest | None = None
        self.version = 0
        self.held: messages.ExecutionHeld | None = None
        self.pause: messages.ExecutionPaused | None = None
        self.ending: messages.ExecutionEnding | None = None
        self.finished: messages.ExecutionFinished | None = None
        self.units: dict[Unit, UnitState] = {}
        self.granted: set[str] = set()
        self.signals: set[str] = set()

    @classmethod
    def of(cls, transitions: Iterable[Transition]) -> Self:
        """Return the history that a whole log tells."""
        history = cls()
        for transition in transitions:
            history.apply(transition)
        return history

    def apply(self, transition: Transition) -> None:
        """Apply the next transition."""
        for event in transition.events:
            self._apply(event, transition.at)
        self.version = transition.version

    @property
    def status(self) -> str:
        """The execution's status, in the words of the api."""
        if self.finished is not None:
            return self.finished.status
        if self.pause is not None:
            return "paused"
        return "pending" if self.request is None or self.held is not None else "running"

    def unit(self, step: str, item: int | None = None) -> UnitState:
        """Return a step's state, or an item's; one that nothing has happened to is pending."""
        return self.units.get((step, item)) or UnitState()

    def items(self, step: str) -> dict[int, UnitState]:
        """Return the items of a `for_each` step that were reached."""
        return {item: state for (name, item), state in self.units.items() if name == step and item is not None}

    def _apply(self, event: Event, at: float) -> None:
        match event:
            case messages.ExecutionStarted():
                self.request = event.request
            case messages.ExecutionHeld():
                self.held = event
            case messages.ExecutionAdmitted():
                self.held = None
            case messages.ExecutionPaused():
                self.pause = event
                self.granted.add(event.id)
            case messages.ExecutionResumed():
                self.pause = None
                self.granted.add(event.id)
            case messages.SignalReceived():
                self.granted.add(event.id)
                self.signals.add(event.id)
            case messages.ExecutionEnding():
                self.ending = event
                if event.outcome != "failed":  # a failure leaves a pause in place: somebody may look before cleanup
                    self.pause = None
            case messages.ExecutionFinished():
                self.finished = event
                self.pause = None
            case _:
                self._apply_to_unit(event, at)

    def _apply_to_unit(self, event: Event, at: float) -> None:
        match event:
            case messages.StepScheduled():
                state = self._reached(event.step, event.item, "running")
                state.child = event.child
                if event.attempt <= 1 or state.input is None:  # later attempts have the same input, and leave it out
                    state.input = event.input
            case messages.StepExpanded():
                self._reached(event.step, None, "running")
            case messages.StepQueued():
                self._reached(event.step, event.item, "pending")
            case messages.StepIterated():
                self._reached(event.step, event.item, "running")
            case messages.StepWaiting() | messages.StepRetryScheduled() | messages.StepDeferred():
                self._waits(event)
            case messages.StepAnswered():
                self._reached(event.step, event.item, "waiting")
                self._grant(event.answer.decision_id)
            case messages.StepCompleted() | messages.StepReused():
                self._completed(event, at)
            case messages.StepFailed():
                state = self._settled(event.step, event.item, "failed", at)
                state.error = event.error
                self._grant(event.error.detail.get(DECISION_ID))
            case messages.StepSkipped():
                self._settled(event.step, None, "skipped", at)
            case messages.StepCancelled():
                self._settled(event.step, event.item, "cancelled", at)
            case _:
                pass

    def _waits(self, event: StepWaiting | messages.StepRetryScheduled | StepDeferred) -> None:
        state = self._reached(event.step, event.item, "waiting")
        if isinstance(event, StepWaiting):
            state.waiting = event
        elif isinstance(event, StepDeferred) and event.ask:
            state.asked = event

    def _completed(self, event: messages.StepCompleted | messages.StepReused, at: float) -> None:
        self._settled(event.step, event.item, "completed", at).output = event.output
        if isinstance(event.output.data, dict) and isinstance(event, messages.StepCompleted):
            self._grant(event.output.data.get(DECISION_ID))

    def _grant(self, request_id: object) -> None:
        if isinstance(request_id, str):
            self.granted.add(request_id)

    def _reached(self, step: str, item: int | None, status: UnitStatus) -> UnitState:
        state = self.units.get((step, item))
        if state is None:
            state = self.units[step, item] = UnitState()
        state.status = status
        state.waiting = None
        state.asked = None
        return state

    def _settled(self, step: str, item: int | None, status: UnitStatus, at: float) -> UnitState:
        state = self._reached(step, item, status)
        state.settled_at = at
        return state
