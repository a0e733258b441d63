"""A step for each item: order, limits, and what a failed item does."""

from __future__ import annotations

from typing import Any

import pytest

from millrace_shared.messages import (
    StepCancelled,
)
from millrace_shared.values import Payload

PY = {"python": "m:f"}


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


def test_cancelling_a_for_each_cancels_the_items_under_way(play: Any) -> None:
    p = play({"a": {**PY, "for_each": [1, 2, 3], "max_parallel": 2}})
    p.start()
    events = p.cancel()
    assert [event.item for event in events if isinstance(event, StepCancelled)] == [0, 1, None]
    assert p.outcome == "cancelled"
