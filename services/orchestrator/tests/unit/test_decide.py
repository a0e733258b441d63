"""The core by example: one rule, one test."""

from __future__ import annotations

from typing import Any

import pytest

from millrace_orchestrator.domain.commands import Abort, Arm, Release, Run, early, outstanding
from millrace_shared.expressions.errors import BlobNeeded
from millrace_shared.messages import (
    ExecutionFinished,
    StepCancelled,
    StepFailed,
    StepRetryScheduled,
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


def test_a_result_of_an_earlier_attempt_is_ignored(play: Any) -> None:
    p = play({"a": {**PY, "retry": {"max_attempts": 2, "jitter": False}}})
    p.start()
    p.fail("a")
    p.fire_next_timer()
    assert p.complete("a", "late", attempt=1) == ()
    p.complete("a", "good", attempt=2)
    assert p.outcome == "completed"


def test_a_result_for_an_unknown_step_is_refused_by_the_fence(play: Any) -> None:
    p = play({"a": PY})
    p.start()
    assert p.complete("nowhere", 1) == ()


@pytest.mark.parametrize(
    ("backoff", "pauses"),
    [("exponential", [2, 4, 5]), ("linear", [2, 4, 5]), ("fixed", [2, 2, 2])],
)
def test_retries_back_off(play: Any, backoff: str, pauses: list[float]) -> None:
    retry = {"max_attempts": 4, "initial": "2s", "max": "5s", "backoff": backoff, "jitter": False}
    p = play({"a": {**PY, "retry": retry}})
    p.start()
    seen = []
    for attempt in (1, 2, 3):
        (event,) = p.fail("a", attempt=attempt)
        assert isinstance(event, StepRetryScheduled)
        seen.append(event.at - p.now)
        p.fire_next_timer()
    assert seen == pauses
    p.fail("a", attempt=4)
    assert p.outcome == "failed"


def test_jitter_spreads_between_half_and_whole_and_is_the_same_for_everyone(play: Any) -> None:
    def pause() -> float:
        p = play({"a": {**PY, "retry": {"max_attempts": 2, "initial": "10s"}}})
        p.start()
        return p.fail("a")[0].at - p.now

    assert 5 <= pause() <= 10
    assert pause() == pause()


def test_errors_that_the_rule_does_not_name_are_not_retried(play: Any) -> None:
    p = play({"a": {**PY, "retry": {"max_attempts": 5}}})
    p.start()
    p.fail("a", category="invalid_output")
    assert p.outcome == "failed"
    assert p.state.error.detail == {"step_id": "a"}


def test_a_retry_waits_as_long_as_the_other_side_asks(play: Any) -> None:
    from millrace_shared.messages import ErrorInfo, StepResult

    p = play({"a": {**PY, "retry": {"max_attempts": 2, "initial": "1s", "jitter": False}}})
    p.start()
    error = ErrorInfo("rate_limited", "rate_limit", "slow down", retry_after_s=42.0)
    (event,) = p.feed(StepResult("e1", "a", 1, 0.0, 0.0, error=error))
    assert event.at - p.now == 42


def test_failure_skips_what_has_not_started_and_lets_the_rest_finish(play: Any) -> None:
    p = play({"a": PY, "b": PY, "c": {**PY, "needs": ["a"]}, "d": {**PY, "needs": ["b"]}})
    p.start()
    p.fail("a")
    assert (p.status("c"), p.status("d"), p.outcome) == ("skipped", "skipped", None)
    p.complete("b")
    assert (p.status("b"), p.outcome) == ("completed", "failed")


def test_continue_counts_as_completed_with_null_output(play: Any) -> None:
    p = play({"a": {**PY, "on_error": "continue"}, "b": {"transform": "${{ steps.a.output }}", "needs": ["a"]}})
    p.start()
    p.fail("a")
    assert (p.status("a"), p.status("b"), p.outcome) == ("failed", "completed", "completed")


def test_cleanup_and_compensation_run_after_a_failure(play: Any) -> None:
    p = play(
        {
            "load": PY,
            "check": {**PY, "needs": ["load"]},
            "undo": {**PY, "needs": ["load"], "run": "on_failure"},
            "cleanup": {**PY, "needs": ["check"], "run": "always"},
        }
    )
    p.start()
    p.fail("load")
    assert p.runs == ["load", "undo", "cleanup"] or sorted(p.runs) == ["cleanup", "load", "undo"]
    p.complete("undo")
    p.complete("cleanup")
    assert p.outcome == "failed"
    assert p.status("check") == "skipped"


def test_compensation_is_skipped_when_nothing_failed(play: Any) -> None:
    p = play({"a": PY, "undo": {**PY, "needs": ["a"], "run": "on_failure"}})
    p.start()
    p.complete("a")
    assert (p.status("undo"), p.outcome) == ("skipped", "completed")


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


def test_for_each_keeps_order_and_its_own_limit(play: Any) -> None:
    p = play({"a": {**PY, "for_each": ["x", "y", "z"], "max_parallel": 2, "input": {"v": "${{ item }}${{ index }}"}}})
    p.start()
    assert p.runs == ["a~0", "a~1"]
    p.complete("a", "second", item=1)
    assert p.runs == ["a~0", "a~1", "a~2"]
    assert p.commands[-1].step.input == Payload({"v": "z2"})
    p.complete("a", "third", item=2)
    p.complete("a", "first", item=0)
    assert p.state.step("a").work.output == Payload(["first", "second", "third"])
    assert p.outcome == "completed"


def test_for_each_over_nothing_is_an_empty_list(play: Any) -> None:
    p = play({"a": {**PY, "for_each": []}, "b": {"transform": "${{ steps.a.output }}", "needs": ["a"]}})
    p.start()
    assert p.state.step("b").work.output == Payload([])


def test_for_each_with_continue_has_null_for_a_failed_item(play: Any) -> None:
    p = play({"a": {**PY, "for_each": [1, 2], "on_error": "continue"}})
    p.start()
    p.fail("a", item=0)
    p.complete("a", "ok", item=1)
    assert p.state.step("a").work.output == Payload([None, "ok"])
    assert p.outcome == "completed"


def test_a_failed_item_starts_no_more_items_and_fails_the_step_when_the_others_are_through(play: Any) -> None:
    p = play({"a": {**PY, "for_each": [1, 2, 3, 4], "max_parallel": 2}})
    p.start()
    p.fail("a", item=0)
    assert (p.runs, p.outcome) == (["a~0", "a~1"], None)
    p.complete("a", "ok", item=1)
    assert (p.status("a"), p.outcome) == ("failed", "failed")
    assert p.state.error.detail == {"step_id": "a", "item": 0}


@pytest.mark.parametrize(("value", "said"), [({"k": 1}, "an object"), (list(range(10_001)), "10001 items")])
def test_for_each_over_something_else_fails_the_step(play: Any, value: Any, said: str) -> None:
    p = play({"a": {**PY, "for_each": "${{ inputs.list }}"}}, inputs={"list": {}})
    p.start({"list": value})
    assert p.outcome == "failed"
    assert said in p.state.error.message


def test_max_parallel_of_the_workflow_holds_for_retries_too(play: Any) -> None:
    retry = {"max_attempts": 2, "initial": "1s", "jitter": False}
    p = play({"a": {**PY, "retry": retry}, "b": PY, "c": PY}, limits={"max_parallel": 1})
    p.start()
    p.fail("a")
    assert p.runs == ["a", "b"]
    p.fire_next_timer()
    assert (p.runs, p.status("a")) == (["a", "b"], "queued")
    p.complete("b")
    assert p.runs == ["a", "b", "c"]
    p.complete("c")
    assert p.runs == ["a", "b", "c", "a"]
    assert p.commands[-1].step.attempt == 2


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


def test_cancel_stops_what_runs_and_still_cleans_up(play: Any) -> None:
    p = play({"a": PY, "b": {**PY, "needs": ["a"]}, "clean": {**PY, "needs": ["b"], "run": "always"}})
    p.start()
    p.cancel()
    assert [p.status(step) for step in ("a", "b")] == ["cancelled", "cancelled"]
    assert any(isinstance(one, Abort) for one in p.commands)
    assert p.runs == ["a", "clean"]
    assert p.cancel() == (), "the same request again changes nothing"
    p.complete("clean")
    assert p.outcome == "cancelled"


def test_a_second_cancel_stops_cleanup(play: Any) -> None:
    p = play({"a": PY, "clean": {**PY, "needs": ["a"], "run": "always"}})
    p.start()
    p.cancel("c1")
    p.cancel("c2")
    assert (p.status("clean"), p.outcome) == ("cancelled", "cancelled")


def test_an_execution_times_out_and_its_cleanup_is_bounded_too(play: Any) -> None:
    p = play({"a": PY, "clean": {**PY, "needs": ["a"], "run": "always"}}, limits={"timeout": "10s"})
    p.start()
    p.time_out()
    assert (p.status("a"), p.status("clean"), p.outcome) == ("cancelled", "running", None)
    p.time_out()
    assert (p.status("clean"), p.outcome) == ("cancelled", "timeout")


def test_an_early_timer_changes_nothing(play: Any) -> None:
    from millrace_shared.messages import TimerFired

    p = play({"a": {"wait": {"delay": "5s"}}})
    p.start()
    assert p.feed(TimerFired("e1", "wait", "a")) == ()
    assert p.feed(TimerFired("e1", "execution_timeout")) == ()


def test_a_step_that_times_out_has_that_status(play: Any) -> None:
    p = play({"a": PY})
    p.start()
    p.fail("a", category="timeout")
    assert p.status("a") == "timeout"


def test_outputs_that_cannot_be_built_fail_the_execution(play: Any) -> None:
    p = play({"a": PY}, outputs={"r": "${{ steps.a.output.missing }}"})
    p.start()
    p.complete("a", {"n": 1})
    assert p.outcome == "failed"
    assert "missing" in p.state.error.message


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


def test_cancelling_a_for_each_cancels_the_items_under_way(play: Any) -> None:
    p = play({"a": {**PY, "for_each": [1, 2, 3], "max_parallel": 2}})
    p.start()
    events = p.cancel()
    assert [event.item for event in events if isinstance(event, StepCancelled)] == [0, 1, None]
    assert p.outcome == "cancelled"


def aborted(play: Any) -> list[Abort]:
    return [one for one in play.commands if isinstance(one, Abort)]


def test_a_failure_aborts_nothing_that_may_finish(play: Any) -> None:
    p = play({"a": PY, "b": PY, "c": PY, "sleep": {"wait": {"delay": "1h"}}}, limits={"max_parallel": 2})
    p.start()
    p.fail("a")
    assert [p.status(step) for step in ("b", "c", "sleep")] == ["running", "cancelled", "cancelled"]
    assert aborted(p) == [Abort("e1", ("sleep@0",), ended=False)], "b runs on"


def test_a_cancel_aborts_no_cleanup_that_runs(play: Any) -> None:
    p = play({"a": PY, "b": PY, "clean": {**PY, "run": "always"}, "late": {**PY, "needs": ["a"], "run": "always"}})
    p.start()
    p.cancel()
    assert [p.status(step) for step in ("a", "b", "clean", "late")] == ["cancelled", "cancelled", "running", "running"]
    assert aborted(p) == [Abort("e1", ("a@1", "b@1"), ended=False)]


def test_a_cancel_that_leaves_nothing_behind_says_so(play: Any) -> None:
    p = play({"a": PY, "each": {**PY, "for_each": [1, 2]}})
    p.start()
    p.cancel()
    assert aborted(p) == [Abort("e1", ("a@1", "each~0@1", "each~1@1"), ended=True)]


def test_an_abort_that_is_performed_late_touches_nothing_of_the_cleanup_that_follows(play: Any) -> None:
    p = play({"a": PY, "ok": {"approval": {"message": "?"}, "needs": ["a"], "run": "always"}})
    p.start()
    p.cancel()
    assert p.status("ok") == "waiting"
    assert aborted(p) == [Abort("e1", ("a@1",), ended=False)]


def test_a_cancel_of_what_has_not_begun_aborts_nothing(play: Any) -> None:
    p = play({"a": PY, "b": {**PY, "needs": ["a"]}})
    p.start()
    p.complete("a")
    p.fail("b")
    assert aborted(p) == []


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
