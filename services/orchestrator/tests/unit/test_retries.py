"""Attempts that fail: when there is another one, and how long it waits."""

from __future__ import annotations

from typing import Any

import pytest

from millrace_shared.messages import (
    StepRetryScheduled,
)

PY = {"python": "m:f"}


def test_a_result_of_an_earlier_attempt_is_ignored(play: Any) -> None:
    p = play({"a": {**PY, "retry": {"max_attempts": 2, "jitter": False}}})
    p.start()
    p.fail("a")
    p.fire_next_timer()
    assert p.complete("a", "late", attempt=1) == ()
    p.complete("a", "good", attempt=2)
    assert p.outcome == "completed"


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
