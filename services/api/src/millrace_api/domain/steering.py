"""What people may ask of an execution that runs: whether it can be granted, and whether it was.

Each wish is judged by the log alone, before it is sent and again after every transition that follows: `outcome` says
that it took effect, `check` that it cannot any more, since somebody else was first. The orchestrator decides by the
same rules; between two who ask at once its order counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from millrace_api.domain.history import History
from millrace_api.errors import Refused
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.parts import PART_SEPARATOR, signals_of, walk
from millrace_shared.expressions.suggest import did_you_mean
from millrace_shared.messages import (
    InboxMessage,
    PauseRequest,
    ResumeRequest,
    SignalRequest,
)
from millrace_shared.values import Payload

SIGNALS_MAX = 1_000
"""Signals that one execution takes in all; the orchestrator ignores further ones."""
ITEMS_SHOWN_MAX = 10
FORM_MISTAKES_MAX = 100


class Wish(Protocol):
    """Something asked of an execution."""

    def check(self, history: History, definition: WorkflowDefinition) -> None:
        """Raise `Refused` when it cannot be granted."""

    def outcome(self, history: History) -> dict[str, Any] | None:
        """Return what to answer once it took effect, and None before."""

    def message(self, history: History) -> InboxMessage:
        """Return what the orchestrator is sent."""

    @property
    def sent(self) -> dict[str, Any]:
        """What to answer while it is durable and has not taken effect yet."""


@dataclass(frozen=True, slots=True)
class Pausing:
    """Nothing new shall start."""

    execution_id: str
    id: str
    by: str
    reason: str

    def check(self, history: History, _: WorkflowDefinition) -> None:
        """Refuse to pause what is paused, stopped or over."""
        refuse_finished(history)
        if history.pause is not None:
            raise Refused("execution_already_paused", f"the execution is paused already{_by(history.pause)}")
        # After a failure cleanup may still be to come, and somebody may want to look before it.
        if history.ending is not None and history.ending.outcome != "failed":
            raise Refused("execution_already_finished", f"the execution is ending already: {history.ending.outcome}")

    def outcome(self, history: History) -> dict[str, Any] | None:
        """Granted: it is paused."""
        return self._answer("paused") if self.id in history.granted else None

    def message(self, _: History) -> InboxMessage:
        """Ask for a pause."""
        return PauseRequest(self.execution_id, id=self.id, reason=self.reason, requested_by=self.by)

    @property
    def sent(self) -> dict[str, Any]:
        """On its way."""
        return self._answer("pausing")

    def _answer(self, status: str) -> dict[str, Any]:
        return {"execution_id": self.execution_id, "status": status}


@dataclass(frozen=True, slots=True)
class Resuming:
    """A paused execution shall go on."""

    execution_id: str
    id: str
    by: str

    def check(self, history: History, _: WorkflowDefinition) -> None:
        """Refuse to resume what is not paused."""
        refuse_finished(history)
        if history.pause is None:
            raise Refused("execution_not_paused", f"the execution is not paused: it is {history.status}")

    def outcome(self, history: History) -> dict[str, Any] | None:
        """Granted: it goes on."""
        return self._answer("running") if self.id in history.granted else None

    def message(self, history: History) -> InboxMessage:
        """Ask to end this pause, and no later one."""
        of = "" if history.pause is None else history.pause.id
        return ResumeRequest(self.execution_id, id=self.id, of=of, requested_by=self.by)

    @property
    def sent(self) -> dict[str, Any]:
        """On its way."""
        return self._answer("resuming")

    def _answer(self, status: str) -> dict[str, Any]:
        return {"execution_id": self.execution_id, "status": status}


@dataclass(frozen=True, slots=True)
class Signalling:
    """Something has happened that steps wait for, or will."""

    execution_id: str
    id: str
    by: str
    name: str
    data: Payload

    def check(self, history: History, definition: WorkflowDefinition) -> None:
        """Refuse a signal that no step waits for, now or ever."""
        _refuse_unknown_signal(self.name, history, definition)
        refuse_finished(history)
        if len(history.signals) >= SIGNALS_MAX:
            raise Refused("too_many_signals", f"the execution has had {SIGNALS_MAX} signals, and takes no more")

    def outcome(self, history: History) -> dict[str, Any] | None:
        """Granted: it is in the log, so a step has it, or will."""
        return self._answer("received") if self.id in history.granted else None

    def message(self, _: History) -> InboxMessage:
        """Hand it on."""
        return SignalRequest(self.execution_id, self.id, self.name, self.data, self.by)

    @property
    def sent(self) -> dict[str, Any]:
        """On its way."""
        return self._answer("sent")

    def _answer(self, status: str) -> dict[str, Any]:
        return {"execution_id": self.execution_id, "signal": self.name, "id": self.id, "status": status}


def _by(request: Any) -> str:
    return f" by {request.requested_by}" if request.requested_by else ""


def refuse_finished(history: History) -> None:
    """Refuse what cannot be done to an execution that has ended.

    Raises:
        Refused: `execution_already_finished`.
    """
    if history.finished is not None:
        raise Refused("execution_already_finished", f"the execution has ended already: {history.finished.status}")


def _refuse_unknown_signal(name: str, history: History, definition: WorkflowDefinition) -> None:
    known = signals_of(definition)
    if name in known:
        return
    message = f'no step of workflow "{definition.name}" waits for a signal "{name[:64]}"'
    inside = next((path for path, step in walk(definition.steps) if step.wait and step.wait.signal == name), None)
    if inside is not None:
        group = inside.partition(PART_SEPARATOR)[0]
        child = history.unit(group).child
        hint = f'group "{group}" does, in an execution of its own' + (f": signal {child}" if child else "")
    else:
        hint = did_you_mean(name, known) or (f"its signals are {', '.join(sorted(known))}" if known else "it has none")
    raise Refused("signal_unknown", f"{message}; {hint}")
