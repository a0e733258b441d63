"""How an execution comes to its end: failures, cancels and timeouts, the cleanup after them, and what they abort."""

from __future__ import annotations

from typing import Any

from millrace_orchestrator.domain.commands import Abort

PY = {"python": "m:f"}


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
