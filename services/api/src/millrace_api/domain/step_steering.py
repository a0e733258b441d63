"""What people may ask of one step: to approve or reject it, or to let it go on from a breakpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from millrace_api.domain.history import SETTLED, History, UnitState
from millrace_api.domain.rendering import timestamp
from millrace_api.domain.steering import refuse_finished
from millrace_api.errors import Mistake, Refused
from millrace_shared.definition.model import JsonSchema, Step, WorkflowDefinition
from millrace_shared.definition.schemas import explain, validator
from millrace_shared.expressions.suggest import did_you_mean
from millrace_shared.messages import NOTHING, ContinueRequest, InboxMessage, StepDeferred, StepWaiting, VerdictRequest
from millrace_shared.values import Payload

ITEMS_SHOWN_MAX = 10
FORM_MISTAKES_MAX = 100


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
        if step.approval is None and step.agent is None:
            raise Refused("step_not_waiting", f'step "{self.step}" is no approval: it is of the kind {step.kind}')
        state = _unit_of(history, self.step, self.item)
        if state.asked is not None:
            refuse_finished(history)
            if self.approved or self.entered is not None:
                _check_form(_form_of(state.asked), self.entered)
            return
        if step.approval is None:
            refuse_finished(history)
            raise _not_waiting(self.step, "an approval", state)
        if state.waiting is not None and state.waiting.reason == "approval":
            refuse_finished(history)
            if self.approved or self.entered is not None:
                _check_form(step.approval.form, self.entered)
            return
        if state.status in {"completed", "failed"}:
            raise Refused("already_decided", f'step "{self.step}" was decided already{_decision(state)}')
        refuse_finished(history)
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
        """Refuse a step that no breakpoint holds, or that cannot go on as wished."""
        step = step_of(definition, self.step)
        state = _unit_of(history, self.step, self.item)
        if not _is_held(state):
            refuse_finished(history)
            raise _not_waiting(self.step, "a breakpoint", state)
        if history.pause is not None:
            raise Refused("execution_already_paused", "the execution is paused: resume it first, then continue")
        if self.edited and step.for_each is not None:
            message = f'step "{self.step}" has an input for each of its items: they cannot be edited here'
            raise Refused(
                "request_invalid",
                f"input: {message}",
                [{"loc": ["body", "input"], "msg": message, "type": "value_invalid"}],
            )

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


def _form_of(asked: StepDeferred) -> JsonSchema | None:
    """Return the form of a question that an agent asks; None when it has none, or one that is claim-checked."""
    question = asked.question.data
    return question.get("form") if isinstance(question, dict) else None


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
