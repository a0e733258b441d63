"""What must be done in the world: derived from events when they are committed, and from the state after a takeover.

Commands are not stored. They follow from the log and the definition, so whoever folds the log can tell which of them
have no result yet (`outstanding`) and do them again; every receiver tolerates that (ADR 0005).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import ExecutionState, Work
from millrace_shared import messages
from millrace_shared.ids import attempt_key
from millrace_shared.messages import RunStep, TimerFired


@dataclass(frozen=True, slots=True)
class Run:
    """Hand an attempt to the runners."""

    step: RunStep
    priority: messages.Priority


@dataclass(frozen=True, slots=True)
class Arm:
    """Have `fired` delivered at `due` (Unix seconds)."""

    due: float
    fired: TimerFired


@dataclass(frozen=True, slots=True)
class Abort:
    """Remove the queued work and the timers of attempts that were cancelled, and tell runners to stop them.

    `attempts` are their keys. `alone` says that nothing else of the execution was under way, so that whatever it has
    queued may be removed at once. Otherwise the others must not be touched: after a failure what runs may finish, and
    after a cancel the cleanup goes on.
    """

    execution_id: str
    attempts: tuple[str, ...]
    alone: bool


@dataclass(frozen=True, slots=True)
class Release:
    """The execution has ended: acknowledge its start."""

    execution_id: str


Command = Run | Arm | Abort | Release


def commands(plan: Plan, state: ExecutionState, events: Iterable[messages.Event]) -> list[Command]:
    """Return what follows from `events`, given the state after them. Aborts come first: they remove queued work."""
    events = tuple(events)
    aborts: list[Command] = list(_abort(plan, state, events))
    others: list[Command] = []
    for event in events:
        match event:
            case messages.StepScheduled():
                work = state.step(event.step).unit(event.item)
                if work.status == "running" and work.attempt == event.attempt:
                    others.append(_run(plan, state, event.step, event.item, work))
            case messages.StepWaiting() | messages.StepRetryScheduled():
                work = state.step(event.step).unit(event.item)
                others.append(_arm(state, event.step, event.item, plan, work))
            case messages.ExecutionStarted() | messages.ExecutionEnding():
                others.append(_deadline(state))
            case messages.ExecutionFinished():
                return [*aborts, Release(state.execution_id)]
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
    if work.status == "waiting" and work.attempt == fired.attempt:
        yield Arm(work.due, fired)


def outstanding(plan: Plan, state: ExecutionState) -> Iterator[Command]:
    """Yield every command whose result the execution still waits for."""
    if state.finished:
        yield Release(state.execution_id)
        return
    yield _deadline(state)
    for step_id, step in state.steps.items():
        if step.is_expanded:
            for item, work in step.items.items():
                yield from _awaited(plan, state, step_id, item, work)
        else:
            yield from _awaited(plan, state, step_id, None, step.work)


def _abort(plan: Plan, state: ExecutionState, events: tuple[messages.Event, ...]) -> Iterator[Abort]:
    cancelled = [event for event in events if isinstance(event, messages.StepCancelled)]
    keys = []
    for event in cancelled:
        step = state.step(event.step)
        work = step.unit(event.item)
        is_whole = event.item is None and step.is_expanded
        if not is_whole and (work.attempt > 0 or plan.steps[event.step].kind == "wait"):
            keys.append(attempt_key(event.step, event.item, work.attempt))
    if keys:
        yield Abort(state.execution_id, tuple(keys), alone=not _goes_on(state, events))


def _goes_on(state: ExecutionState, events: tuple[messages.Event, ...]) -> bool:
    """Whether anything is under way that was so before `events`."""
    begun = {
        (event.step, event.item)
        for event in events
        if isinstance(event, messages.StepScheduled | messages.StepWaiting | messages.StepRetryScheduled)
    }
    return any(
        work.status in {"running", "waiting"} and (step_id, item) not in begun
        for step_id, step in state.steps.items()
        for item, work in (step.items.items() if step.is_expanded else ((None, step.work),))
    )


def _awaited(plan: Plan, state: ExecutionState, step_id: str, item: int | None, work: Work) -> Iterator[Command]:
    if work.status == "running":
        yield _run(plan, state, step_id, item, work, again=True)
    elif work.status == "waiting":
        yield _arm(state, step_id, item, plan, work)


def _run(plan: Plan, state: ExecutionState, step_id: str, item: int | None, work: Work, *, again: bool = False) -> Run:
    step, request = plan.steps[step_id], state.request
    assert step.kind not in {"transform", "wait"}
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
        deadline=state.deadline,
        spec=step.spec,
        input=work.input,
        secrets=work.secrets,
        item=item,
        traceparent=request.traceparent,
        again=again,
    )
    return Run(run_step, request.priority)


def _arm(state: ExecutionState, step_id: str, item: int | None, plan: Plan, work: Work) -> Arm:
    kind: messages.TimerKind = "wait" if plan.steps[step_id].kind == "wait" else "retry"
    return Arm(work.due, TimerFired(state.execution_id, kind, step_id, item, work.attempt))


def _deadline(state: ExecutionState) -> Arm:
    return Arm(state.deadline, TimerFired(state.execution_id, "execution_timeout"))
