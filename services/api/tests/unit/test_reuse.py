"""What a retry and a fork take over."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from millrace_api.domain.history import History
from millrace_api.domain.reuse import Source, reuse_of
from millrace_shared.definition.graph import ancestors
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.messages import (
    LOG_VERSION,
    ErrorInfo,
    Event,
    ExecutionFinished,
    ExecutionStarted,
    Reuse,
    ReusedStep,
    StartRequest,
    StepCancelled,
    StepCompleted,
    StepExpanded,
    StepFailed,
    StepReused,
    StepScheduled,
    StepSkipped,
    Transition,
)
from millrace_shared.values import BlobRef, Payload

ERROR = ErrorInfo("x", "server_error", "it broke")


def workflow(**steps: dict[str, Any]) -> WorkflowDefinition:
    return WorkflowDefinition.model_validate(
        {"name": "w", "steps": {name: {"transform": 1, **step} for name, step in steps.items()}}
    )


def history(*events: Event, execution_id: str = "old") -> History:
    started = ExecutionStarted(StartRequest(execution_id, "default", "w", "w", 1, "0" * 64, 0.0), 9.0)
    return History.of([Transition(LOG_VERSION, execution_id, 1, 1.0, (started, *events))])


def done(step: str, item: int | None = None, output: Any = None) -> StepCompleted:
    return StepCompleted(step, item=item, output=Payload(output or step))


def steps_of(reuse: Reuse) -> set[str]:
    return set(reuse.steps)


def test_what_completed_is_taken_over_and_what_failed_is_not():
    definition = workflow(a={}, b={"needs": ["a"]}, c={"needs": ["b"]}, d={})
    past = history(done("a"), StepFailed("b", ERROR), StepSkipped("c"), done("d"), ExecutionFinished("failed"))
    reuse = reuse_of(Source("old", past, definition), {})
    assert reuse == Reuse("old", {"a": ReusedStep(output=Payload("a")), "d": ReusedStep(output=Payload("d"))})


def test_cleanup_and_compensation_run_again_with_what_they_clean_up():
    definition = workflow(
        make={},
        work={"needs": ["make"]},
        undo={"needs": ["work"], "run": "on_failure"},
        clean={"needs": ["work"], "run": "always"},
    )
    past = history(done("make"), StepFailed("work", ERROR), done("undo"), done("clean"))
    assert steps_of(reuse_of(Source("old", past, definition), {})) == {"make"}


def test_what_saw_the_output_of_a_failed_step_runs_again():
    definition = workflow(a={"on_error": "continue"}, b={"needs": ["a"]}, c={"needs": ["b"]})
    past = history(StepFailed("a", ERROR, continued=True), done("b"), StepFailed("c", ERROR))
    assert steps_of(reuse_of(Source("old", past, definition), {})) == set()


def test_a_branch_that_was_skipped_for_reasons_that_still_hold_is_in_nobodys_way():
    definition = workflow(a={}, no={"needs": ["a"]}, join={"needs": ["a", "no"]}, bad={"needs": ["join"]})
    past = history(done("a"), StepSkipped("no"), done("join"), StepFailed("bad", ERROR))
    assert steps_of(reuse_of(Source("old", past, definition), {})) == {"a", "join"}


def test_an_output_of_null_is_an_output():
    past = history(StepCompleted("a"), StepFailed("b", ERROR))
    document = msgspec.to_builtins(reuse_of(Source("old", past, workflow(a={}, b={})), {}), str_keys=True)
    decoded = msgspec.convert(msgspec.json.decode(msgspec.json.encode(document)), Reuse)
    assert decoded.steps["a"].output == Payload(None)


def test_what_was_taken_over_before_is_taken_over_again_from_here():
    definition = workflow(a={}, b={"needs": ["a"]})
    past = history(StepReused("a", "oldest", output=Payload(7)), StepFailed("b", ERROR))
    assert reuse_of(Source("old", past, definition), {}) == Reuse("old", {"a": ReusedStep(output=Payload(7))})


def test_large_outputs_stay_where_they_are():
    stored = Payload({"big": None}, {"/big": BlobRef("f" * 64, 100_000)})
    past = history(StepCompleted("a", output=stored), StepFailed("b", ERROR))
    reuse = reuse_of(Source("old", past, workflow(a={}, b={})), {})
    assert reuse.steps["a"].output == stored


def test_completed_items_of_a_for_each_that_did_not_get_through():
    definition = workflow(a={}, each={"needs": ["a"], "for_each": [1, 2, 3]}, after={"needs": ["each"]})
    items = (done("each", 0, "x"), StepFailed("each", ERROR, item=1), StepCancelled("each", 2))
    past = history(done("a"), StepExpanded("each", 3), *items, StepFailed("each", ERROR))
    reuse = reuse_of(Source("old", past, definition), {})
    assert reuse.steps["each"] == ReusedStep(items={0: Payload("x")})
    whole = history(done("a"), StepExpanded("each", 1), done("each", 0), done("each", None, ["x"]))
    assert reuse_of(Source("old", whole, definition), {}).steps["each"] == ReusedStep(output=Payload(["x"]))


def test_items_are_of_no_use_when_their_list_is_made_anew():
    definition = workflow(a={}, each={"needs": ["a"], "for_each": [1, 2]})
    past = history(StepFailed("a", ERROR, continued=True), StepExpanded("each", 2), done("each", 0))
    assert steps_of(reuse_of(Source("old", past, definition), {})) == set()


GROUP = {"transform": None, "group": {"steps": {"x": {"transform": 1}, "y": {"transform": 1, "needs": ["x"]}}}}
INSIDE = workflow(x={}, y={"needs": ["x"]})


def child(execution_id: str, *events: Event, definition: WorkflowDefinition = INSIDE) -> Source:
    return Source(execution_id, history(*events, execution_id=execution_id), definition)


def test_what_a_child_had_done_is_taken_over_all_the_way_down():
    definition = workflow(team=GROUP)
    outer = workflow(deep=GROUP, side={})
    past = history(StepScheduled("team", 1, child="c1"), StepFailed("team", ERROR))
    children = {
        "c1": child("c1", done("side"), StepScheduled("deep", 1, child="c2"), definition=outer),
        "c2": child("c2", done("x"), StepFailed("y", ERROR)),
    }
    reuse = reuse_of(Source("old", past, definition), children)
    inner = Reuse("c2", {"x": ReusedStep(output=Payload("x"))})
    middle = Reuse("c1", {"side": ReusedStep(output=Payload("side")), "deep": ReusedStep(child=inner)})
    assert reuse == Reuse("old", {"team": ReusedStep(child=middle)})


def test_the_child_of_the_last_attempt_counts():
    past = history(
        StepScheduled("team", 1, child="c1"), StepScheduled("team", 2, child="c2"), StepFailed("team", ERROR)
    )
    assert Source("old", past, workflow(team=GROUP)).children == {"team": "c2"}


def test_children_of_items_and_iterations_are_not_told_apart_and_run_anew():
    each = {**GROUP, "for_each": [1]}
    past = history(StepScheduled("team", 1, child="c1"), StepFailed("team", ERROR))
    assert Source("old", past, workflow(team=each)).children == {}
    loop = {**GROUP, "repeat": {"until": "true", "max": 2}}
    assert Source("old", past, workflow(team=loop)).children == {}


def test_a_child_that_is_missing_or_has_nothing_to_offer_is_left_out():
    past = history(StepScheduled("team", 1, child="c1"), StepFailed("team", ERROR))
    source = Source("old", past, workflow(team=GROUP))
    assert reuse_of(source, {}).steps == {}
    assert reuse_of(source, {"c1": child("c1", StepFailed("x", ERROR))}).steps == {}


def test_a_fork_runs_its_step_and_everything_after_it_again():
    definition = workflow(a={}, b={"needs": ["a"]}, c={"needs": ["b"]}, d={"needs": ["a"]})
    past = history(*map(done, "abcd"), ExecutionFinished("completed"))
    fork = Source("old", past, definition, from_step="b", is_partial=False)
    assert steps_of(reuse_of(fork, {})) == {"a", "d"}


def test_a_fork_follows_the_graph_of_the_new_version():
    past = history(*map(done, "abc"))
    newer = workflow(a={}, new={"needs": ["a"]}, b={"needs": ["new"]}, c={"needs": ["a"]})
    fork = Source("old", past, newer, from_step="new", is_partial=False)
    assert steps_of(reuse_of(fork, {})) == {"a", "c"}


def test_a_fork_takes_nothing_over_in_part():
    definition = workflow(a={}, each={"for_each": [1, 2]}, team=GROUP)
    past = history(done("a"), StepExpanded("each", 2), done("each", 0), StepScheduled("team", 1, child="c1"))
    fork = Source("old", past, definition, from_step="a", is_partial=False)
    assert (fork.unfinished, fork.children) == ((), {})
    assert steps_of(reuse_of(fork, {})) == set()


def test_it_survives_the_way_through_json():
    reuse = Reuse("old", {"each": ReusedStep(items={3: Payload("x", {"": BlobRef("f" * 64, 9)})})})
    document = msgspec.json.decode(msgspec.json.encode(Payload(msgspec.to_builtins(reuse, str_keys=True))))
    assert msgspec.convert(document["data"], Reuse, str_keys=True) == reuse


@st.composite
def runs(draw: st.DrawFn) -> tuple[WorkflowDefinition, History, str]:
    names = [f"s{number}" for number in range(draw(st.integers(1, 8)))]
    steps: dict[str, dict[str, Any]] = {}
    events: list[Event] = []
    for position, name in enumerate(names):
        steps[name] = {"needs": draw(st.lists(st.sampled_from(names[:position]), unique=True)) if position else []}
        made = draw(st.sampled_from([done(name), StepFailed(name, ERROR), StepSkipped(name), None]))
        if made is not None:
            events.append(made)
    return workflow(**steps), history(*events), draw(st.sampled_from(names))


@given(runs())
def test_nothing_is_taken_over_above_which_something_runs_again(run: tuple[WorkflowDefinition, History, str]):
    definition, past, from_step = run
    before = ancestors({name: step.needs for name, step in definition.steps.items()})
    for start in (None, from_step):
        reuse = reuse_of(Source("old", past, definition, from_step=start), {})
        for name in reuse.steps:
            assert past.unit(name).status == "completed"
            assert name != start
            assert start is None or not before.has(name, start)
            above = [past.unit(ancestor).status for ancestor in before.of(name)]
            assert set(above) <= {"completed", "skipped"}


@given(runs())
def test_whatever_completed_below_nothing_but_completed_steps_is_taken_over(
    run: tuple[WorkflowDefinition, History, str],
):
    definition, past, _ = run
    before = ancestors({name: step.needs for name, step in definition.steps.items()})
    reuse = reuse_of(Source("old", past, definition), {})
    for name in definition.steps:
        if {past.unit(one).status for one in (name, *before.of(name))} == {"completed"}:
            assert name in reuse.steps
