"""The core by example: one rule, one test. Retries, items and ends have files of their own."""

from __future__ import annotations

from typing import Any

import pytest

from millrace_orchestrator.domain.commands import Arm, Release, Run, early, outstanding
from millrace_shared.expressions.errors import BlobNeeded
from millrace_shared.messages import (
    ExecutionFinished,
    StepFailed,
    StepScheduled,
    StepSkipped,
    TimerFired,
)
from millrace_shared.values import BlobRef, Payload

PY = {"python": "m:f"}


def test_steps_run_in_order_and_outputs_are_resolved(play: Any) -> None:
    p = play(
        {"a": PY, "b": {**PY, "needs": ["a"], "input": {"x": "${{ steps.a.output.n }}"}}},
        outputs={"r": "${{ steps.b.output }}"},
    )
    p.start()
    assert p.runs == ["a"]
    p.complete("a", {"n": 7})
    assert p.runs == ["a", "b"]
    assert p.commands[-1].step.input == Payload({"x": 7})
    p.complete("b", "done")
    assert p.events[-1] == ExecutionFinished("completed", output=Payload({"r": "done"}))
    assert isinstance(p.commands[-1], Release)


def test_a_repeated_start_and_a_repeated_result_change_nothing(play: Any) -> None:
    p = play({"a": PY, "b": {**PY, "needs": ["a"]}})
    p.start()
    assert p.start() == ()
    p.complete("a", 1)
    assert p.complete("a", 2) == ()
    assert p.state.step("a").work.output == Payload(1)


def test_a_result_for_an_unknown_step_is_refused_by_the_fence(play: Any) -> None:
    p = play({"a": PY})
    p.start()
    assert p.complete("nowhere", 1) == ()


def test_a_join_after_branches_runs_when_one_branch_did(play: Any) -> None:
    p = play(
        {
            "a": {**PY, "when": "inputs.mode == 'fast'"},
            "b": {**PY, "when": "inputs.mode == 'slow'"},
            "join": {**PY, "needs": ["a", "b"]},
            "strict": {**PY, "needs": ["a", "b"], "run": "strict"},
        },
        inputs={"mode": {"type": "string"}},
    )
    p.start({"mode": "fast"})
    p.complete("a")
    assert p.runs == ["a", "join"]
    assert (p.status("b"), p.status("strict")) == ("skipped", "skipped")


def test_all_needs_skipped_skips_the_step_and_its_children(play: Any) -> None:
    p = play({"a": {**PY, "when": False}, "b": {**PY, "needs": ["a"]}, "c": {**PY, "needs": ["b"]}})
    p.start()
    assert [p.status(step) for step in "abc"] == ["skipped"] * 3
    assert p.outcome == "completed"


def test_a_condition_that_cannot_be_evaluated_fails_the_step_and_says_why(play: Any) -> None:
    p = play({"a": PY, "b": {**PY, "needs": ["a"], "when": "steps.a.output.n > 3"}})
    p.start()
    p.complete("a", {"n": None})
    failed = next(event for event in p.events if isinstance(event, StepFailed))
    assert failed.step == "b"
    assert "steps.a.output.n > 3" in failed.error.message
    assert p.outcome == "failed"


def test_wait_sleeps_without_a_runner_and_goes_on(play: Any) -> None:
    p = play({"a": {"wait": {"delay": "90s"}}, "b": {**PY, "needs": ["a"]}})
    p.start()
    assert (p.status("a"), p.runs) == ("waiting", [])
    p.fire_next_timer()
    assert (p.status("a"), p.runs) == ("completed", ["b"])


@pytest.mark.parametrize("until", ["tomorrow", "2026-01-15T10:00:00", "9999-01-01T00:00:00Z"])
def test_wait_until_something_that_is_no_time_fails(play: Any, until: str) -> None:
    p = play({"a": {"wait": {"until": "${{ inputs.until }}"}}}, inputs={"until": {"type": "string"}})
    p.start({"until": until})
    assert p.outcome == "failed"


def test_an_early_timer_changes_nothing(play: Any) -> None:
    from millrace_shared.messages import TimerFired

    p = play({"a": {"wait": {"delay": "5s"}}})
    p.start()
    assert p.feed(TimerFired("e1", "wait", "a")) == ()
    assert p.feed(TimerFired("e1", "execution_timeout")) == ()


def test_a_claim_checked_output_is_passed_on_without_being_read(play: Any) -> None:
    reference = BlobRef("ab" * 32, 5_000_000)
    p = play({"a": PY, "b": {**PY, "needs": ["a"], "input": {"rows": "${{ steps.a.output }}"}}})
    p.start()
    p.complete("a", Payload(refs={"": reference}))
    assert p.commands[-1].step.input == Payload({"rows": None}, {"/rows": reference})


def test_looking_into_a_claim_checked_output_asks_for_it_and_changes_nothing(play: Any) -> None:
    reference = BlobRef("ab" * 32, 5_000_000)
    p = play({"a": PY, "b": {**PY, "needs": ["a"], "input": {"n": "${{ steps.a.output.n }}"}}})
    p.start()
    before = p.state
    with pytest.raises(BlobNeeded):
        p.complete("a", Payload(refs={"": reference}))
    assert p.state is before
    from millrace_shared.messages import StepResult

    p.feed(StepResult("e1", "a", 1, 0.0, 0.0, output=Payload(refs={"": reference})), {reference: {"n": 9}})
    assert p.commands[-1].step.input == Payload({"n": 9})


def test_a_loaded_value_under_an_empty_key_stands_in_its_place(play: Any) -> None:
    reference = BlobRef("ab" * 32, 100_000)
    p = play({"a": PY, "b": {"needs": ["a"], "transform": "${{ steps.a.output.x[''].n }}"}})
    p.start()
    payload = Payload({"x": {"": None, "y": 1}}, {"/x/": reference})
    from millrace_shared.messages import StepResult

    p.feed(StepResult("e1", "a", 1, 0.0, 0.0, output=payload), {reference: {"n": 9}})
    assert p.state.step("b").work.output == Payload(9)


def test_outstanding_is_what_has_no_result_yet(play: Any) -> None:
    retry = {"max_attempts": 2, "initial": "1s"}
    p = play({"a": PY, "b": {**PY, "retry": retry}, "c": {**PY, "for_each": [1, 2]}, "w": {"wait": {"delay": "5s"}}})
    p.start()
    p.fail("b")
    p.complete("c", 1, item=0)
    again = list(outstanding(p.plan, p.state))
    assert {(one.step.step, one.step.item) for one in again if isinstance(one, Run)} == {("a", None), ("c", 1)}
    kinds = sorted(one.fired.kind for one in again if isinstance(one, Arm))
    assert kinds == ["execution_timeout", "retry", "wait"]


def test_a_long_chain_of_skips_needs_no_stack(play: Any) -> None:
    steps = {"s0": {**PY, "when": False}} | {f"s{i}": {**PY, "needs": [f"s{i - 1}"]} for i in range(1, 5_000)}
    p = play(steps)
    events = p.start()
    assert sum(isinstance(event, StepSkipped) for event in events) == 5_000
    assert p.outcome == "completed"


def test_secrets_stay_beside_the_input(play: Any) -> None:
    http = {"url": "https://example.com", "headers": {"Authorization": "Bearer ${{ secrets.token }}"}}
    p = play({"a": {"http": http}}, secrets=["token"])
    p.start()
    scheduled = next(event for event in p.events if isinstance(event, StepScheduled))
    assert scheduled.input.data["headers"]["Authorization"] is None
    assert scheduled.secrets == {"/headers/Authorization": ("Bearer ", "token", "")}


def test_a_timer_that_fires_early_is_armed_again_while_it_is_waited_for(play: Any) -> None:
    p = play({"a": {"wait": {"delay": "5s"}}, "b": {**PY, "needs": ["a"]}})
    p.start()
    waiting, deadline = TimerFired("e1", "wait", "a"), TimerFired("e1", "execution_timeout")
    assert list(early(p.state, waiting)) == [Arm(1_005.0, waiting)]
    assert list(early(p.state, deadline)) == [Arm(p.state.deadline, deadline)]
    assert list(early(p.state, TimerFired("e1", "retry", "b", None, 1))) == []
    p.fire_next_timer()
    assert list(early(p.state, waiting)) == []
    p.complete("b")
    assert list(early(p.state, deadline)) == []
