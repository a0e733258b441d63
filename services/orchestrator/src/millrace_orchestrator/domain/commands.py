"""What must be done in the world: derived from events when they are committed, and from the state after a takeover.

Commands are not stored. They follow from the log and the definition, so whoever folds the log can tell which of them
have no result yet (`outstanding`) and do them again; every receiver tolerates that (ADR 0005).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from millrace_orchestrator.domain.budgets import scopes
from millrace_orchestrator.domain.children import child_request, report
from millrace_orchestrator.domain.gates import Enter, Gate, Leave
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import HELD_S_MAX, ExecutionState, Work
from millrace_shared import messages
from millrace_shared.ids import attempt_key
from millrace_shared.messages import RunStep, StartRequest, TimerFired


class Run(msgspec.Struct, frozen=True):
    """Hand an attempt to the runners."""

    step: RunStep
    priority: messages.Priority
    crowded: bool = False


class Arm(msgspec.Struct, frozen=True):
    """Have `fired` delivered at `due` (Unix seconds)."""

    due: float
    fired: TimerFired


class Abort(msgspec.Struct, frozen=True):
    """Remove the queued work and the timers of attempts that were cancelled, and tell runners to stop them.

    `attempts` are their keys. Once the execution has `ended`, whatever it has queued may be removed at once. Before,
    the others must not be touched: after a failure what runs may finish, and after a cancel the cleanup goes on,
    perhaps in the hands of somebody else long before this is done.
    """

    execution_id: str
    attempts: tuple[str, ...]
    ended: bool


class Begin(msgspec.Struct, frozen=True):
    """Accept a child execution, unless it is accepted already."""

    request: StartRequest


class Tell(msgspec.Struct, frozen=True):
    """Send a message to another execution: a parent or a child."""

    message: messages.InboxMessage


class Release(msgspec.Struct, frozen=True):
    """The execution has ended: acknowledge its start."""

    execution_id: str


_STOPPING = (messages.StepCancelled, messages.ExecutionCancelRequested)
"""Events that have something stopped. Most transitions hold none."""

Command = Run | Arm | Abort | Begin | Tell | Enter | Leave | Release


def commands(plan: Plan, state: ExecutionState, events: Iterable[messages.Event]) -> list[Command]:
    """Return what follows from `events`, given the state after them. Aborts come first: they remove queued work."""
    events = tuple(events)
    aborts = list(_aborts(plan, state, events)) if any(isinstance(event, _STOPPING) for event in events) else []
    others: list[Command] = []
    for event in events:
        match event:
            case messages.StepCompleted():  # nothing follows from what is most frequent, so it is told first
                pass
            case messages.StepScheduled():
                work = state.step(event.step).unit(event.item)
                if work.status == "running" and work.attempt == event.attempt:
                    others.append(_hand_out(plan, state, event.step, event.item, work))
            case messages.StepWaiting() | messages.StepRetryScheduled() | messages.StepDeferred():
                work = state.step(event.step).unit(event.item)
                others += _arm(state, event.step, event.item, work)
            case messages.ExecutionHeld():
                others += _enter(plan, state)
            case messages.ExecutionPaused() | messages.ExecutionResumed():
                others += [_deadline(state), *_waits(state), *_steer_children(plan, state)]
            case messages.ExecutionEnding():
                others += [_deadline(state), *_waits(state)]
            case messages.ExecutionStarted() | messages.ExecutionAdmitted():
                others.append(_deadline(state))
            case messages.ExecutionFinished():
                return [*aborts, *_end(plan, state)]
            case _:
                pass
    return aborts + others


def early(state: ExecutionState, fired: TimerFired) -> Iterator[Arm]:
    """Yield a timer again that has fired and is still waited for: the clock that it went by is ahead of ours."""
    if state.finished:
        return
    if fired.kind == "execution_timeout":
        yield Arm(state.deadline, fired)
        return
    work = state.step(fired.step).unit(fired.item)
    if work.attempt == fired.attempt:
        yield from _arm(state, fired.step, fired.item, work)


def outstanding(plan: Plan, state: ExecutionState) -> Iterator[Command]:
    """Yield every command whose result the execution still waits for."""
    yield from _cancel_children(plan, state, _child_units(plan, state))
    if state.finished:
        yield from _end(plan, state)
        return
    yield _deadline(state)
    yield from _enter(plan, state)
    yield from _steer_children(plan, state)
    for step_id, step in state.steps.items():
        if step.is_expanded:
            for item, work in step.items.items():
                yield from _awaited(plan, state, step_id, item, work)
        else:
            yield from _awaited(plan, state, step_id, None, step.work)


def _aborts(plan: Plan, state: ExecutionState, events: tuple[messages.Event, ...]) -> Iterator[Command]:
    yield from _abort(plan, state, events)
    yield from _cancel_children(plan, state, _cancelled_now(plan, state, events))
    for event in events:
        if isinstance(event, messages.ExecutionCancelRequested):
            yield from _cancel_again(plan, state, event, events)


def _abort(plan: Plan, state: ExecutionState, events: tuple[messages.Event, ...]) -> Iterator[Abort]:
    cancelled = [event for event in events if isinstance(event, messages.StepCancelled)]
    keys = []
    for event in cancelled:
        step = state.step(event.step)
        work = step.unit(event.item)
        is_whole = event.item is None and step.is_expanded
        if not is_whole and (work.attempt > 0 or plan.steps[event.step].performer == "nobody"):
            keys.append(attempt_key(event.step, event.item, work.attempt))
    if keys:
        yield Abort(state.execution_id, tuple(keys), ended=state.finished)


def _awaited(plan: Plan, state: ExecutionState, step_id: str, item: int | None, work: Work) -> Iterator[Command]:
    if work.status == "running":
        yield _hand_out(plan, state, step_id, item, work, again=True)
    elif work.status == "waiting":
        yield from _arm(state, step_id, item, work)


def _hand_out(
    plan: Plan, state: ExecutionState, step_id: str, item: int | None, work: Work, *, again: bool = False
) -> Run | Begin:
    if plan.steps[step_id].performer == "child":
        return Begin(child_request(plan, state, step_id, item, work))
    return _run(plan, state, step_id, item, work, again=again)


def _run(plan: Plan, state: ExecutionState, step_id: str, item: int | None, work: Work, *, again: bool) -> Run:
    step, request = plan.steps[step_id], state.request
    assert step.performer == "runner"
    run_step = RunStep(
        execution_id=request.execution_id,
        workspace=request.workspace,
        workflow_id=request.workflow_id,
        workflow_name=request.workflow_name,
        workflow_version=request.workflow_version,
        step=step_id,
        attempt=work.attempt,
        kind=step.kind,  # type: ignore[arg-type]
        timeout_s=step.timeout_s,
        # A guard only, should nobody tell the runner that the execution is over: a pause may put its deadline off.
        deadline=state.deadline + HELD_S_MAX,
        spec=step.spec,
        input=work.input,
        secrets=work.secrets,
        item=item,
        traceparent=request.traceparent,
        again=again,
        cache=work.cache,
        cache_ttl_s=step.cache.ttl_s if step.cache is not None else 0.0,
        iteration=work.iteration,
        continues=work.attempt > work.base + 1,
        answers=work.answers,
        budgets=scopes(plan, state, step) if step.kind == "agent" else (),
    )
    return Run(run_step, request.priority, work.crowded)


def _arm(state: ExecutionState, step_id: str, item: int | None, work: Work) -> Iterator[Arm]:
    """Arm the end of a wait, unless the execution's own deadline comes first."""
    if work.status != "waiting" or work.waits_for == "breakpoint" or work.due >= state.own_deadline:
        return
    kind: messages.TimerKind = "retry" if work.waits_for is None else "wait"
    yield Arm(work.due, TimerFired(state.execution_id, kind, step_id, item, work.attempt))


def _waits(state: ExecutionState) -> Iterator[Arm]:
    """Arm everything that is waited for again: which of it comes before the deadline is another now."""
    for step_id, step in state.steps.items():
        for item, work in step.items.items() if step.is_expanded else ((None, step.work),):
            yield from _arm(state, step_id, item, work)


def _deadline(state: ExecutionState) -> Arm:
    return Arm(state.deadline, TimerFired(state.execution_id, "execution_timeout"))


def _enter(plan: Plan, state: ExecutionState) -> Iterator[Enter]:
    """Ask the gate that the execution waits at to let it pass."""
    if state.is_held:
        yield Enter(_gate(plan, state, len(state.gates) - 1), state.execution_id)


def _end(plan: Plan, state: ExecutionState) -> Iterator[Command]:
    """Tell everybody who waits for the end, and only then give up the lease."""
    for index in range(len(state.gates)):
        yield Leave(_gate(plan, state, index), state.execution_id)
    result = report(state)
    if result is not None:
        yield Tell(result)
    yield Release(state.execution_id)


def _gate(plan: Plan, state: ExecutionState, index: int) -> Gate:
    return plan.gates[index].gate(state.request, state.gates[index].key)


def _steer_children(plan: Plan, state: ExecutionState) -> Iterator[Tell]:
    """Pause the children of a paused execution, and have them go on when it does."""
    if state.pause is None:
        return
    for request in _children(plan, state):
        child, pause_id = request.execution_id, state.pause.id
        if state.is_paused:
            yield Tell(messages.PauseRequest(child, id=pause_id, reason="the execution above it is paused"))
        else:
            yield Tell(messages.ResumeRequest(child, id=pause_id, of=pause_id))


def _children(plan: Plan, state: ExecutionState) -> Iterator[StartRequest]:
    """Yield the requests of the children that are under way."""
    for step_id, item, work in _child_units(plan, state):
        if work.status == "running":
            yield child_request(plan, state, step_id, item, work)


def _child_units(plan: Plan, state: ExecutionState) -> Iterator[tuple[str, int | None, Work]]:
    for step_id, step in state.steps.items():
        if plan.steps[step_id].performer == "child":
            units = step.items.items() if step.is_expanded else ((None, step.work),)
            yield from ((step_id, item, work) for item, work in units)


def _cancel_children(
    plan: Plan, state: ExecutionState, units: Iterable[tuple[str, int | None, Work]]
) -> Iterator[Command]:
    """Cancel the children of units that were cancelled.

    Each is begun first: should its start not have been sent, or be sent later by somebody who was asleep, it finds that
    it was cancelled before it did anything.
    """
    for step_id, item, work in units:
        if work.status == "cancelled" and work.at > 0:
            request = child_request(plan, state, step_id, item, work)
            yield Begin(request)
            reason = "the execution above it has ended"
            yield Tell(messages.CancelRequest(request.execution_id, id=state.execution_id, reason=reason))


def _cancel_again(
    plan: Plan, state: ExecutionState, request: messages.ExecutionCancelRequested, events: tuple[messages.Event, ...]
) -> Iterator[Tell]:
    """A cancel of what is ending already stops the cleanup of the children that were cancelled before, too."""
    if any(isinstance(event, messages.ExecutionEnding) for event in events):
        return
    for step_id, item, work in _child_units(plan, state):
        if work.status == "cancelled" and work.at > 0:
            child = child_request(plan, state, step_id, item, work).execution_id
            yield Tell(messages.CancelRequest(child, id=request.id, reason=request.reason))


def _cancelled_now(
    plan: Plan, state: ExecutionState, events: tuple[messages.Event, ...]
) -> Iterator[tuple[str, int | None, Work]]:
    for event in events:
        if isinstance(event, messages.StepCancelled) and plan.steps[event.step].performer == "child":
            step = state.step(event.step)
            if event.item is not None or not step.is_expanded:
                yield event.step, event.item, step.unit(event.item)
