"""What follows when a unit has settled: its children are looked at, or the rest of its `for_each` goes on."""

from __future__ import annotations

from typing import Any

from millrace_orchestrator.domain import ending
from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.plan import PlannedStep
from millrace_orchestrator.domain.scope import value_of
from millrace_orchestrator.domain.state import StepState
from millrace_shared.definition.schemas import mistakes_of
from millrace_shared.expressions.errors import BlobNeeded
from millrace_shared.messages import ErrorInfo, StepCompleted, StepFailed
from millrace_shared.values import BlobRef, Payload

MISTAKES_SHOWN = 5


def complete(draft: Draft, step: PlannedStep, item: int | None, output: Payload, **recorded: Any) -> None:
    """Complete a unit; fail it when its output is not what the author has declared."""
    problem = refused(draft, step, output)
    if problem is not None:
        recorded.pop("signal", None)
        fail(draft, step, item, problem, **recorded)
        return
    completed(draft, step, item, output, **recorded)


def completed(draft: Draft, step: PlannedStep, item: int | None, output: Payload, **recorded: Any) -> None:
    """Complete a unit whose output is as declared; or a `for_each` step, whose items' outputs were."""
    draft.emit(StepCompleted(step.id, item=item, output=output, **recorded))
    settled(draft, step, item)


def fail(draft: Draft, step: PlannedStep, item: int | None, error: ErrorInfo, **recorded: Any) -> None:
    """Fail a unit for good, and with it the execution unless the step says `on_error: continue`."""
    draft.emit(StepFailed(step.id, error, item=item, continued=step.continue_on_error, **recorded))
    if not step.continue_on_error:
        ending.begin(draft, "failed", ending.error_of_step(step.id, item, error))
    settled(draft, step, item)


def settled(draft: Draft, step: PlannedStep, item: int | None) -> None:
    """A unit has settled: go on with its children, or with the rest of its `for_each`."""
    if item is None:
        draft.worklist.extend(step.children)
    else:
        item_settled(draft, step)


def item_settled(draft: Draft, step: PlannedStep) -> None:
    """Settle a `for_each` step once its last item has; or, when no more may start, its last running one."""
    state = draft.state.step(step.id)
    if state.status != "running":
        return
    if state.items_settled == state.count and (step.continue_on_error or not ending.failed_item(state)):
        completed(draft, step, None, _gathered(state))
    elif state.items_settled == state.count or not draft.may_start(step):
        ending.settle_for_each(draft, step)


def refused(draft: Draft, step: PlannedStep, output: Payload) -> ErrorInfo | None:
    """Return what is wrong with an output that nobody has checked yet.

    Raises:
        BlobNeeded: it is claim-checked.
    """
    if step.output_schema is None:
        return None
    value = value_of(output, draft.loaded)
    if isinstance(value, BlobRef):
        raise BlobNeeded(frozenset((value,)))
    if isinstance(value, Payload):
        raise BlobNeeded(frozenset(value.refs.values()))
    mistakes = mistakes_of(step.output_schema, value, MISTAKES_SHOWN)
    if not mistakes:
        return None
    described = "; ".join(f"{place or 'output'}: {message}" for place, message in mistakes)
    problem = f"the output does not match the step's JSON Schema: {described}"
    return ErrorInfo("invalid_output", "invalid_output", problem)


def _gathered(state: StepState) -> Payload:
    """Return the outputs of all items in order. A failed item that was continued is null."""
    data: list[Any] = []
    refs: dict[str, BlobRef] = {}
    for index in range(state.count):
        output = state.unit(index).output
        data.append(output.data)
        for pointer, reference in output.refs.items():
            refs[f"/{index}{pointer}"] = reference
    return Payload(data, refs)
