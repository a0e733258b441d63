"""The simulation can fail: each bug planted here is found within a few hundred histories."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import actors
import gates
import pytest
import world
from msgspec.structs import replace
from simulate import simulate

from millrace_orchestrator.domain import decide, ending, evolve, evolve_steps, readiness
from millrace_orchestrator.domain.commands import Arm, Begin, Run, Tell
from millrace_orchestrator.domain.gates import Enter, Gate
from millrace_orchestrator.domain.state import ExecutionState
from millrace_shared.messages import StepCompleted, StepIterated

SEEDS = 1_000

Plant = Callable[[pytest.MonkeyPatch], None]


def _append_without_fence(patch: pytest.MonkeyPatch) -> None:
    def append(self: world.World, execution_id: str, _length: int, transition: Any) -> None:
        self.logs[execution_id].append(world.encode(transition))

    patch.setattr(world.World, "append", append)


def _forget_what_is_outstanding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(actors, "outstanding", lambda _plan, _state: [])


def _believe_every_result(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decide, "_is_current", lambda draft, *_: draft.state_or_none and not draft.state_or_none.finished)


def _ignore_run_rules(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(readiness, "rule_against", lambda _step, _state: None)


def _ignore_max_parallel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(readiness, "has_free_place", lambda _draft: True)


def _start_work_while_ending(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ending, "_sweep", lambda *_args, **_kwargs: None)


def _lose(kind: type) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        perform = actors.Orchestrator.perform

        def without(self: actors.Orchestrator, command: Any) -> None:
            if not isinstance(command, kind):
                perform(self, command)

        patch.setattr(actors.Orchestrator, "perform", without)

    return plant


def _skip_a_child(patch: pytest.MonkeyPatch) -> None:
    consider = readiness.consider

    def without_the_last(draft: Any, step_id: str) -> None:
        if step_id != list(draft.plan.steps)[-1]:
            consider(draft, step_id)

    patch.setattr(decide, "consider", without_the_last)


def _dispatch_twice(patch: pytest.MonkeyPatch) -> None:
    emit = decide.Draft.emit

    def twice(self: Any, event: Any) -> None:
        emit(self, event)
        if type(event).__name__ == "StepScheduled":
            self.events.append(event)

    patch.setattr(decide.Draft, "emit", twice)


def _take_a_message_for_late_from_memory(patch: pytest.MonkeyPatch) -> None:
    create = actors.Orchestrator.__init__
    patch.setattr(actors.Orchestrator, "__init__", lambda self, *args: create(self, *args, trusts_memory=True))


def _start_while_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ExecutionState, "may_begin", property(lambda _state: True))


def _open_every_gate(patch: pytest.MonkeyPatch) -> None:
    advance = gates.advance
    patch.setattr(gates, "advance", lambda gate, *rest: advance(_without_limit(gate), *rest))


def _without_limit(gate: Gate) -> Gate:
    """Return the gate without its limit."""
    return dataclasses.replace(gate, limit=1_000)


def _keep_taken_signals(patch: pytest.MonkeyPatch) -> None:
    completed = evolve_steps.STEP_HANDLERS[StepCompleted]

    def without_taking(plan: Any, state: Any, event: Any, at: float) -> Any:
        return completed(plan, state, replace(event, signal=""), at)

    patch.setitem(evolve._HANDLERS, StepCompleted, without_taking)


def _pay_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(readiness, "reused_step", lambda *_: None)


def _count_retries_across_iterations(patch: pytest.MonkeyPatch) -> None:
    iterated = evolve_steps.STEP_HANDLERS[StepIterated]

    def with_old_base(plan: Any, state: Any, event: Any, at: float) -> Any:
        after = iterated(plan, state, event, at)
        step = after.step(event.step)
        work = replace(step.unit(event.item), attempt=0)
        step = replace(step, work=work) if event.item is None else replace(step, items=step.items.set(event.item, work))
        return replace(after, steps=after.steps.set(event.step, step))

    patch.setitem(evolve._HANDLERS, StepIterated, with_old_base)


def _move_on_who_slept_without_a_lease(patch: pytest.MonkeyPatch) -> None:
    create = actors.Orchestrator.__init__
    patch.setattr(actors.Orchestrator, "__init__", lambda self, *args: create(self, *args, never_wakes=True))


def _forget_the_timers_of_who_sleeps(patch: pytest.MonkeyPatch) -> None:
    put_to_sleep = actors.Orchestrator._put_to_sleep

    def without(self: actors.Orchestrator, execution_id: str, performed: Any, stored: Any) -> None:
        put_to_sleep(self, execution_id, [one for one in performed if not isinstance(one, Arm)], stored)

    patch.setattr(actors.Orchestrator, "_put_to_sleep", without)


BUGS: dict[str, Plant] = {
    "ignored fence": _append_without_fence,
    "nothing performed again after a takeover": _forget_what_is_outstanding,
    "results dropped on the word of a stale memory": _take_a_message_for_late_from_memory,
    "late results believed": _believe_every_result,
    "run rules ignored": _ignore_run_rules,
    "max_parallel ignored": _ignore_max_parallel,
    "work started while ending": _start_work_while_ending,
    "who slept moved on without a lease": _move_on_who_slept_without_a_lease,
    "timers of who sleeps forgotten": _forget_the_timers_of_who_sleeps,
    "lost timer": _lose(Arm),
    "lost dispatch": _lose(Run),
    "skipped step": _skip_a_child,
    "skipped child execution": _lose(Begin),
    "a child's end not told": _lose(Tell),
    "never asked at a gate": _lose(Enter),
    "gates without a limit": _open_every_gate,
    "begun while held or paused": _start_while_held,
    "signals taken twice": _keep_taken_signals,
    "results paid again": _pay_again,
    "attempts numbered anew in each iteration": _count_retries_across_iterations,
    "double dispatch": _dispatch_twice,
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[bug](monkeypatch)
    for seed in range(SEEDS):
        try:
            simulate(seed)
        except Exception:
            return
    pytest.fail(f"{SEEDS} histories did not notice: {bug}")
