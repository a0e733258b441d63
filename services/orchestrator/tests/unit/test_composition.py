"""Children, loops and plans by example: one rule, one test."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from millrace_orchestrator.domain.commands import Begin, Release, Run, Tell, outstanding
from millrace_shared.expressions.errors import BlobNeeded
from millrace_shared.ids import child_execution_id
from millrace_shared.messages import (
    CancelRequest,
    ErrorInfo,
    ExecutionFinished,
    Parent,
    PauseRequest,
    ResumeRequest,
    StartRequest,
    StepFailed,
    StepIterated,
    StepResult,
    StepWaiting,
    Usage,
    Use,
)
from millrace_shared.values import BlobRef, Payload

PY = {"python": "m:f"}
GROUP = {"input": {"n": 1}, "group": {"steps": {"inner": PY}}}
USES = {"child": Use("wf-2", 7, "child-hash"), "child@3": Use("wf-2", 3, "old-hash")}


def begun(play: Any) -> list[StartRequest]:
    return [one.request for one in play.commands if isinstance(one, Begin)]


def told(play: Any) -> list[Any]:
    return [one.message for one in play.commands if isinstance(one, Tell)]


def start(play: Any, **request: Any) -> Any:
    return play.feed(StartRequest("e1", "default", "wf-1", "wf", 3, "hash", play.now, **request))


def test_a_group_is_an_execution_of_the_same_definition(play: Any) -> None:
    p = play({"g": GROUP}, limits={"timeout": 60})
    start(p, priority="high", labels={"a": "b"}, part="outer", parent=Parent("e0", "outer", 1, "e0", 1, inline=True))
    (child,) = begun(p)
    assert (child.definition, child.part, child.workflow_id, child.workflow_version) == ("hash", "outer/g", "wf-1", 3)
    assert child.execution_id == child_execution_id("e1", "g@1")
    assert child.parent == Parent("e1", "g", 1, "e0", 2, inline=True)
    assert (child.input, child.priority, child.labels) == (Payload({"n": 1}), "high", {"a": "b"})
    assert child.deadline == p.now + 60


def test_a_workflow_step_runs_the_version_that_was_accepted(play: Any) -> None:
    p = play({"a": {"workflow": "child"}, "b": {"workflow": {"name": "child", "version": 3}, "timeout": "10s"}})
    start(p, uses=USES)
    a, b = begun(p)
    assert (a.definition, a.workflow_id, a.workflow_version, a.workflow_name) == ("child-hash", "wf-2", 7, "child")
    assert (b.definition, b.workflow_version, b.workflow_name) == ("old-hash", 3, "child")
    assert b.deadline == p.now + 10
    assert a.parent is not None
    assert not a.parent.inline


def test_a_workflow_that_was_not_known_fails_the_step(play: Any) -> None:
    p = play({"a": {"workflow": "child"}})
    start(p)
    assert p.outcome == "failed"
    assert p.state.error.code == "workflow_not_found"


def test_the_end_of_a_child_is_the_result_of_its_step(play: Any) -> None:
    p = play({"a": PY}, outputs={"x": "${{ steps.a.output }}"})
    start(p, parent=Parent("e0", "g", 2, "e0", 1, item=4))
    p.feed(StepResult("e1", "a", 1, 1.0, 2.0, output=Payload(5), usage=Usage(2, 10, 20, Decimal("0.5"))))
    (result,) = told(p)
    assert (result.execution_id, result.step, result.attempt, result.item) == ("e0", "g", 2, 4)
    assert (result.output, result.error, result.usage) == (Payload({"x": 5}), None, Usage(2, 10, 20, Decimal("0.5")))
    assert p.commands[-1] == Release("e1")


def test_a_child_that_fails_tells_its_parent_why(play: Any) -> None:
    p = play({"a": PY})
    start(p, parent=Parent("e0", "g", 1, "e0", 1))
    p.fail("a", "rate_limit")
    (result,) = told(p)
    assert (result.error.code, result.error.category) == ("broken", "rate_limit")
    assert result.error.message == "execution e1 ended failed: it broke"


def test_what_a_child_spent_counts_for_its_parent(play: Any) -> None:
    p = play({"g": GROUP}, limits={"max_cost_usd": 1})
    start(p)
    assert begun(p)[0].budget_usd == 1
    p.feed(StepResult("e1", "g", 1, 1.0, 2.0, usage=Usage(1, 1, 1, Decimal("0.25"))))
    assert p.state.spent.cost_usd == Decimal("0.25")


def test_spending_the_budget_ends_the_execution_and_the_next_child_gets_what_is_left(play: Any) -> None:
    p = play({"a": PY, "g": {**GROUP, "needs": ["a"]}, "b": {**PY, "needs": ["g"]}}, limits={"max_cost_usd": 1})
    start(p)
    p.feed(StepResult("e1", "a", 1, 1.0, 2.0, usage=Usage(1, 1, 1, Decimal("0.75"))))
    assert begun(p)[0].budget_usd == Decimal("0.25")
    p.feed(StepResult("e1", "g", 1, 1.0, 2.0, usage=Usage(1, 1, 1, Decimal("0.25"))))
    assert p.state.error.code == "budget_exceeded"


def test_an_execution_that_has_done_everything_completes_whatever_it_spent(play: Any) -> None:
    p = play({"a": PY}, limits={"max_cost_usd": 1})
    start(p)
    p.feed(StepResult("e1", "a", 1, 1.0, 2.0, usage=Usage(1, 1, 1, Decimal(2))))
    assert p.outcome == "completed"


def test_a_cancel_goes_down_and_begins_what_nobody_may_have_begun(play: Any) -> None:
    p = play({"g": GROUP})
    start(p)
    p.commands.clear()
    p.cancel()
    child = child_execution_id("e1", "g@1")
    assert [one.execution_id for one in begun(p)] == [child]
    (message,) = told(p)
    assert (type(message), message.execution_id, message.id) == (CancelRequest, child, "e1")
    again = [type(one) for one in outstanding(p.plan, p.state)]
    assert again == [Begin, Tell, Release]


def test_a_second_cancel_goes_down_to_what_still_cleans_up(play: Any) -> None:
    p = play({"g": GROUP, "tidy": {**PY, "run": "always"}})
    start(p)
    p.cancel("c1")
    p.commands.clear()
    p.cancel("c2")
    child = child_execution_id("e1", "g@1")
    assert [(message.execution_id, message.id) for message in told(p)] == [(child, "c2")]


def test_a_pause_goes_down_and_so_does_going_on(play: Any) -> None:
    p = play({"g": GROUP})
    start(p)
    p.feed(PauseRequest("e1", "p1"))
    p.feed(ResumeRequest("e1", "r1"))
    child = child_execution_id("e1", "g@1")
    assert [(type(one), one.execution_id, one.id) for one in told(p)] == [
        (PauseRequest, child, "p1"),
        (ResumeRequest, child, "p1"),
    ]


def test_going_on_ends_only_the_pause_that_it_names(play: Any) -> None:
    p = play({"a": PY})
    start(p)
    p.feed(PauseRequest("e1", "mine"))
    assert p.feed(ResumeRequest("e1", "x", of="of the parent")) == ()
    assert p.state.is_paused


@pytest.mark.parametrize(("given", "code"), [({"n": 3}, None), ({"n": "x"}, "input_invalid"), ({}, "input_invalid")])
def test_the_input_of_a_child_is_checked(play: Any, given: Any, code: str | None) -> None:
    p = play({"a": PY}, inputs={"n": {"type": "integer"}, "m": {"default": 4}})
    start(p, input=Payload(given), parent=Parent("e0", "s", 1, "e0", 1))
    assert (p.state.error and p.state.error.code) == code
    if code is None:
        assert p.state.request.input == Payload({"n": 3, "m": 4})


def test_executions_are_nested_as_deep_as_the_limit_and_no_deeper(play: Any) -> None:
    p = play({"g": GROUP})
    start(p, parent=Parent("e0", "g", 1, "root", 500, inline=True))
    assert p.state.error.code == "too_deep"


def test_a_plan_is_stored_before_the_step_that_runs_it(play: Any) -> None:
    plan = {"steps": {"x": {"transform": "$" + "{{ inputs.n }}"}}}
    p = play({"a": PY, "run": {"needs": ["a"], "plan": "${{ steps.a.output }}", "input": {"n": 7}}})
    start(p)
    p.complete("a", plan)
    (child,) = begun(p)
    assert list(p.definitions) == [child.definition]
    assert child.input == Payload({"n": 7})
    assert b'"plan"' in p.definitions[child.definition]


def test_a_plan_that_is_none_fails_its_step_with_what_is_wrong(play: Any) -> None:
    p = play({"a": PY, "run": {"needs": ["a"], "plan": "${{ steps.a.output }}", "on_error": "continue"}})
    start(p)
    p.complete("a", {"steps": {"x": {"needs": ["y"], "transform": 1}}})
    failed = next(event for event in p.events if isinstance(event, StepFailed))
    assert (failed.error.code, failed.error.category) == ("plan_invalid", "invalid_output")
    assert 'there is no step "y"' in failed.error.message
    assert begun(p) == []


def test_a_plan_may_not_use_secrets_that_its_workflow_has_not(play: Any) -> None:
    p = play({"a": PY, "run": {"needs": ["a"], "plan": "${{ steps.a.output }}"}})
    start(p)
    p.complete("a", {"secrets": ["key"], "steps": {"x": {"transform": 1}}})
    assert p.state.error.code == "plan_invalid"


def test_a_loop_counts_retries_in_each_iteration_and_shows_the_one_before(play: Any) -> None:
    repeat = {"until": "output.done", "max": 3}
    retry = {"max_attempts": 2, "initial": 0, "jitter": False}
    step = {**PY, "input": {"before": "${{ previous }}", "n": "${{ iteration }}"}, "repeat": repeat, "retry": retry}
    p = play({"a": step})
    start(p)
    assert p.commands[-1].step.input == Payload({"before": None, "n": 1})
    p.fail("a", attempt=1)
    p.fire_next_timer()
    p.complete("a", {"done": False}, attempt=2)
    assert p.commands[-1].step.attempt == 3
    assert p.commands[-1].step.input == Payload({"before": {"done": False}, "n": 2})
    p.fail("a", attempt=3)
    p.fire_next_timer()
    p.complete("a", {"done": True}, attempt=4)
    assert p.outcome == "completed"
    assert [event.iteration for event in p.events if isinstance(event, StepIterated)] == [1]


def test_each_iteration_of_a_loop_has_a_cached_result_of_its_own(play: Any) -> None:
    def keys() -> list[str]:
        p = play({"a": {**PY, "cache": {"ttl": 60}, "repeat": {"until": "output == 'done'", "max": 9}}})
        start(p)
        p.complete("a", "not yet")
        p.complete("a", "done", attempt=2)
        return [one.step.cache for one in p.commands if isinstance(one, Run)]

    first, second = keys()
    assert first != second
    assert keys() == [first, second]


@pytest.mark.parametrize(("on_max", "outcome"), [("complete", "completed"), ("fail", "failed")])
def test_a_loop_ends_at_its_limit(play: Any, on_max: str, outcome: str) -> None:
    p = play({"a": {**PY, "repeat": {"until": "output.done", "max": 2, "on_max": on_max}}})
    start(p)
    p.complete("a", {"done": False}, attempt=1)
    p.complete("a", {"done": False}, attempt=2)
    assert p.outcome == outcome


def test_a_loop_with_a_pause_waits_between_iterations(play: Any) -> None:
    p = play({"a": {**PY, "repeat": {"until": "output.done", "max": 2, "delay": "5s"}}})
    start(p)
    p.complete("a", {"done": False}, attempt=1)
    assert isinstance(p.events[-1], StepWaiting)
    assert p.events[-1].until == p.now + 5
    p.commands = [one for one in p.commands if getattr(one, "due", 0) == p.now + 5]
    p.fire_next_timer()
    p.complete("a", {"done": True}, attempt=2)
    assert p.outcome == "completed"


def test_a_condition_of_a_loop_that_has_no_value_fails_the_step(play: Any) -> None:
    p = play({"a": {**PY, "repeat": {"until": "output.done", "max": 2}}})
    start(p)
    p.complete("a", {"other": 1})
    assert p.state.error.code == "expression_error"


def test_a_loop_stops_when_the_execution_is_ending(play: Any) -> None:
    p = play({"a": {**PY, "repeat": {"until": "output.done", "max": 9}}, "b": PY})
    start(p)
    p.fail("b")
    p.complete("a", {"done": False})
    assert (p.outcome, p.status("a")) == ("failed", "cancelled")


def test_an_output_that_no_runner_checks_is_checked_here(play: Any) -> None:
    schema = {"type": "object", "required": ["x"]}
    p = play({"g": {**GROUP, "output": schema}})
    start(p)
    p.complete("g", {"y": 1})
    assert p.state.error == ErrorInfo(
        "invalid_output",
        "invalid_output",
        "the output does not match the step's JSON Schema: output: 'x' is a required property",
        detail={"step_id": "g"},
    )


@pytest.mark.parametrize("again", [{}, {"repeat": {"until": "output.y == 1", "max": 3}}])
def test_an_output_that_is_not_as_declared_is_tried_again_as_a_runner_s_would_be(play: Any, again: Any) -> None:
    retry = {"max_attempts": 2, "initial": 1, "jitter": False, "errors": ["invalid_output"]}
    p = play({"g": {**GROUP, **again, "output": {"type": "object", "required": ["x"]}, "retry": retry}})
    start(p)
    p.complete("g", {"y": 1})
    assert p.status("g") == "waiting"
    p.fire_next_timer()
    p.complete("g", {"x": 1, "y": 1}, attempt=2)
    assert p.outcome == "completed"


def test_what_is_declared_of_the_output_is_that_of_an_item_and_an_empty_list_has_none(play: Any) -> None:
    p = play({"g": {**GROUP, "for_each": "${{ inputs.xs }}", "output": {"type": "object"}}})
    start(p, input=Payload({"xs": []}))
    assert (p.outcome, p.state.step("g").work.output) == ("completed", Payload([]))


def test_items_of_a_list_have_children_of_their_own(play: Any) -> None:
    p = play({"g": {"for_each": [1, 2], "input": {"n": "${{ item }}"}, "group": {"steps": {"inner": PY}}}})
    start(p)
    assert [child.execution_id for child in begun(p)] == [child_execution_id("e1", f"g~{item}@1") for item in (0, 1)]
    p.complete("g", "b", item=1)
    p.complete("g", "a", item=0)
    assert isinstance(p.events[-1], ExecutionFinished)
    assert p.state.step("g").work.output == Payload(["a", "b"])


def test_the_results_of_an_earlier_child_are_given_to_the_next_one(play: Any) -> None:
    reuse = {"execution_id": "e0", "steps": {"g": {"child": {"execution_id": "c0", "steps": {}}}}}
    p = play({"g": GROUP})
    start(p, reuse=Payload(reuse))
    assert begun(p)[0].reuse == Payload({"execution_id": "c0"})


def test_reused_steps_and_items_are_not_run(play: Any) -> None:
    steps = {
        "a": {**PY, "run": "strict"},
        "many": {**PY, "needs": ["a"], "for_each": [0, 1, 2]},
        "b": {**PY, "needs": ["many"], "input": {"x": "${{ steps.a.output }}"}},
    }
    reuse = {
        "execution_id": "e0",
        "steps": {"a": {"output": {"data": 7}}, "many": {"items": {"0": {"data": "x"}, "2": {"data": "z"}}}},
    }
    p = play(steps)
    start(p, reuse=Payload(reuse))
    assert p.runs == ["many~1"]
    p.complete("many", "y", item=1)
    assert p.state.step("many").work.output == Payload(["x", "y", "z"])
    assert p.runs == ["many~1", "b"]
    assert p.commands[-1].step.input == Payload({"x": 7})


def test_reused_results_that_are_claim_checked_are_asked_for(play: Any) -> None:
    p = play({"a": PY})
    reference = BlobRef("f" * 64, 10)
    request = StartRequest("e1", "default", "wf-1", "wf", 3, "hash", p.now, reuse=Payload(None, {"": reference}))
    with pytest.raises(BlobNeeded):
        p.feed(request)
    p.feed(request, {reference: {"execution_id": "e0", "steps": {"a": {"output": {"data": 7}}}}})
    assert (p.outcome, p.runs) == ("completed", [])
