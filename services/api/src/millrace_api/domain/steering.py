"""What people may ask of an execution that runs: whether it can be granted, and whether it was.

Each wish is judged by the log alone, before it is sent and again after every transition that follows: `outcome` says
that it took effect, `check` that it cannot any more, since somebody else was first. The orchestrator decides by the
same rules; between two who ask at once its order counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from millrace_api.domain.history import SETTLED, History, UnitState
from millrace_api.domain.rendering import timestamp
from millrace_api.errors import Mistake, Refused
from millrace_shared.definition.model import JsonSchema, Step, WorkflowDefinition
from millrace_shared.definition.parts import PART_SEPARATOR, signals_of, walk
from millrace_shared.definition.schemas import explain, validator
from millrace_shared.expressions.suggest import did_you_mean
from millrace_shared.messages import (
    NOTHING,
    ContinueRequest,
    InboxMessage,
    PauseRequest,
    ResumeRequest,
    SignalRequest,
    StepWaiting,
    VerdictRequest,
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
        """Refuse to pause what is paused, ending or over."""
        _refuse_finished(history)
        if history.pause is not None:
            raise Refused("execution_already_paused", f"the execution is paused already{_by(history.pause)}")
        if history.ending is not None:
            raise Refused(
                "execution_already_finished", f"the execution is ending already ({history.ending.outcome}): let it"
            )

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
        _refuse_finished(history)
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
        _refuse_finished(history)
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


@dataclass(frozen=True, slots=True)
class Deciding:
    """An approval step gets its answer; `data` is what was `entered` into its form, ready to be sent."""

    execution_id: str
    id: str
    by: str
    step: str
    item: int | None
    approved: bool
    note: str
    data: Payload
    entered: Any = None

    def check(self, history: History, definition: WorkflowDefinition) -> None:
        """Refuse a step that waits for no approval, or has its answer; and what does not fit the form."""
        step = step_of(definition, self.step)
        if step.approval is None:
            raise Refused("step_not_waiting", f'step "{self.step}" is no approval: it is of the kind {step.kind}')
        state = _unit_of(history, self.step, self.item)
        if state.waiting is not None and state.waiting.reason == "approval":
            _refuse_finished(history)
            if self.approved or self.entered is not None:
                _check_form(step.approval.form, self.entered)
            return
        if state.status in {"completed", "failed"}:
            raise Refused("already_decided", f'step "{self.step}" was decided already{_decision(state)}')
        _refuse_finished(history)
        raise _not_waiting(self.step, "an approval", state)

    def outcome(self, history: History) -> dict[str, Any] | None:
        """Granted: this very answer settled the step."""
        return self._answer("approved" if self.approved else "rejected") if self.id in history.granted else None

    def message(self, _: History) -> InboxMessage:
        """Hand the answer on."""
        return VerdictRequest(
            self.execution_id,
            self.id,
            self.step,
            self.approved,
            item=self.item,
            note=self.note,
            data=self.data,
            requested_by=self.by,
        )

    @property
    def sent(self) -> dict[str, Any]:
        """On its way."""
        return self._answer("approving" if self.approved else "rejecting")

    def _answer(self, status: str) -> dict[str, Any]:
        return {"execution_id": self.execution_id, "step_id": self.step, "item": self.item, "status": status}


@dataclass(slots=True)
class Continuing:
    """A step that is held at a breakpoint shall go on, with another input if `edited`."""

    execution_id: str
    id: str
    by: str
    step: str
    item: int | None
    edited: bool
    input: Payload
    _held: StepWaiting | None = field(default=None, init=False)

    def check(self, history: History, definition: WorkflowDefinition) -> None:
        """Refuse a step that no breakpoint holds."""
        step_of(definition, self.step)
        state = _unit_of(history, self.step, self.item)
        if not _is_held(state):
            _refuse_finished(history)
            raise _not_waiting(self.step, "a breakpoint", state)

    def outcome(self, history: History) -> dict[str, Any] | None:
        """Granted: the step was held when this was sent, and is not any more.

        The log does not say who let it go, so it is asked whether it went on as wished here.

        Raises:
            Refused: `already_decided`: somebody else let it go, with another input.
        """
        if self._held is None:
            return None
        state = history.unit(self.step, self.item)
        if _is_held(state):
            return None
        if state.status == "cancelled":
            raise _not_waiting(self.step, "a breakpoint", state)
        wanted = self.input if self.edited else self._held.input
        if state.input is not None and state.input != wanted:
            raise Refused("already_decided", f'somebody else let step "{self.step}" go on, with another input')
        return self._answer("continued")

    def message(self, history: History) -> InboxMessage:
        """Ask to let it go."""
        self._held = history.unit(self.step, self.item).waiting
        return ContinueRequest(
            self.execution_id,
            self.id,
            self.step,
            item=self.item,
            edited=self.edited,
            input=self.input if self.edited else NOTHING,
            requested_by=self.by,
        )

    @property
    def sent(self) -> dict[str, Any]:
        """On its way."""
        return self._answer("continuing")

    def _answer(self, status: str) -> dict[str, Any]:
        return {"execution_id": self.execution_id, "step_id": self.step, "item": self.item, "status": status}


def step_of(definition: WorkflowDefinition, step_id: str) -> Step:
    """Return a step of a definition.

    Raises:
        Refused: `step_not_found`, with the nearest one that there is.
    """
    step = definition.steps.get(step_id)
    if step is None:
        hint = did_you_mean(step_id, definition.steps)
        message = f'workflow "{definition.name}" has no step "{step_id[:64]}"'
        raise Refused("step_not_found", f"{message}; {hint}" if hint else message)
    return step


def _unit_of(history: History, step: str, item: int | None) -> UnitState:
    """Return the state of a step, or of an item that was reached.

    Raises:
        Refused: `step_not_found`: there is no such item; `request_invalid`: items wait, and none is named.
    """
    items = history.items(step)
    if item is not None and item not in items:
        raise Refused("step_not_found", f'step "{step}" has no item {item} that has begun')
    state = history.unit(step, item)
    if item is None and state.waiting is None:
        waiting = sorted(number for number, one in items.items() if one.waiting is not None)
        if waiting:
            shown = ", ".join(map(str, waiting[:ITEMS_SHOWN_MAX])) + (", …" if len(waiting) > ITEMS_SHOWN_MAX else "")
            raise Refused(
                "request_invalid",
                f'item: name one of step "{step}": {shown} wait',
                [{"loc": ["body", "item"], "msg": f"items that wait: {shown}", "type": "missing"}],
            )
    return state


def _is_held(state: UnitState) -> bool:
    return state.waiting is not None and state.waiting.reason == "breakpoint"


def _not_waiting(step: str, what: str, state: UnitState) -> Refused:
    if state.waiting is not None:
        is_so = f"it waits for {_WAITS[state.waiting.reason]}"
    elif state.status in SETTLED:
        is_so = f"it is {state.status} already"
    elif state.child:
        is_so = f"its steps are those of execution {state.child}"
    else:
        is_so = f"it is {state.status}"
    return Refused("step_not_waiting", f'step "{step}" does not wait for {what}: {is_so}')


_WAITS: Mapping[str, str] = {
    "delay": "a time",
    "until": "a time",
    "signal": "a signal",
    "approval": "an approval",
    "breakpoint": "somebody to continue it",
}


def _decision(state: UnitState) -> str:
    """Return how, by whom and when a step was decided, as far as its output or its error says."""
    if state.error is None:
        told = state.output.data if isinstance(state.output.data, dict) else {}
        how = str(state.status) if not told else "approved" if told.get("approved") else "rejected"
    else:
        told = state.error.detail
        how = "too late" if state.error.category == "timeout" else "rejected"
    by = f" by {told['by']}" if told.get("by") else ""
    return f": {how}{by}, {timestamp(state.settled_at)}"


def _by(request: Any) -> str:
    return f" by {request.requested_by}" if request.requested_by else ""


def _refuse_finished(history: History) -> None:
    if history.finished is not None:
        raise Refused("execution_already_finished", f"the execution has ended already: {history.finished.status}")


def _check_form(form: JsonSchema | None, entered: Any) -> None:
    """Refuse what does not fit an approval's form; nothing entered counts as an empty object."""
    if form is None:
        if entered is None:
            return
        mistake: Mistake = {"loc": ["body", "data"], "msg": "the approval has no form: leave it out", "type": "unknown"}
        raise Refused("form_invalid", "data: the approval has no form: leave it out", [mistake])
    mistakes: list[Mistake] = []
    for error in validator(form).iter_errors({} if entered is None else entered):
        at, message = explain(error)
        kind = str(error.validator)
        mistakes.append({"loc": ["body", "data", *at], "msg": message, "type": kind, "input": error.instance})
        if len(mistakes) == FORM_MISTAKES_MAX:
            break
    if mistakes:
        count = len(mistakes)
        place = ".".join(map(str, mistakes[0]["loc"][1:]))
        detail = f"{place}: {mistakes[0]['msg']}" if count == 1 else f"the form has {count} mistakes"
        raise Refused("form_invalid", detail, mistakes)


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
