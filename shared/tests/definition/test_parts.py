from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_shared.definition.canonical import canonical_json
from millrace_shared.definition.model import Step, WorkflowDefinition
from millrace_shared.definition.parts import PartUnknown, groups_of, part_of, signals_of, sink_outputs, uses_of
from millrace_shared.definition.validation import validate

DEFINITION = validate(
    """
name: flow
inputs: {topic: {type: string}}
secrets: [token]
limits: {timeout: 2h, max_parallel: 7, max_cost_usd: 3}
defaults: {timeout: 20s}
concurrency: {limit: 1}
agents: {w: {model: 'offline:demo'}}
steps:
  paid: {wait: {signal: payment}}
  team:
    input: {topic: '${{ inputs.topic }}', size: 3}
    timeout: 10m
    group:
      steps:
        first: {agent: w, prompt: '${{ inputs.topic }}'}
        second: {needs: [first], workflow: {name: billing, version: 3}}
        third: {needs: [first], wait: {signal: ready}}
        inner: {for_each: [1], group: {steps: {deep: {workflow: shipping}}, outputs: {r: '${{ steps.deep.output }}'}}}
  bill: {workflow: billing}
"""
).definition


def test_the_whole_is_its_own_part():
    assert part_of(DEFINITION, "") is DEFINITION


def test_a_group_is_a_definition_of_its_own():
    part = part_of(DEFINITION, "team")
    assert part.inputs == {"topic": {}, "size": {}}
    assert tuple(part.steps) == ("first", "second", "third", "inner")
    assert part.outputs == {step_id: f"${{{{ steps.{step_id}.output }}}}" for step_id in ("second", "third", "inner")}
    assert (part.name, part.secrets, part.agents) == (DEFINITION.name, DEFINITION.secrets, DEFINITION.agents)
    assert part.timeout_s_of("first") == 20.0
    assert (part.limits.timeout, part.limits.max_parallel, part.limits.max_cost_usd) == (600.0, 7, 3.0)
    assert part.concurrency is None


def test_a_group_within_a_group_is_found_by_its_path():
    part = part_of(DEFINITION, "team/inner")
    assert (tuple(part.steps), part.inputs, part.outputs) == (("deep",), {}, {"r": "${{ steps.deep.output }}"})
    assert part.limits.timeout == 600.0  # no timeout of its own: that of the group around it


@pytest.mark.parametrize("path", ["tean", "paid", "team/first", "team/inner/deep", "team/", "/team", "inner"])
def test_other_paths_are_no_parts(path: str):
    with pytest.raises(PartUnknown, match=f'flow has no group "{path}"'):
        part_of(DEFINITION, path)


def test_a_part_is_valid_as_it_stands():
    for path in groups_of(DEFINITION):
        part = part_of(DEFINITION, path)
        assert validate(canonical_json(part)).definition == part


def test_groups_uses_and_signals():
    assert list(groups_of(DEFINITION)) == ["team", "team/inner"]
    assert uses_of(DEFINITION) == {("billing", None), ("billing", 3), ("shipping", None)}
    assert signals_of(DEFINITION) == {"payment"}
    assert signals_of(part_of(DEFINITION, "team")) == {"ready"}


names = st.from_regex(r"[a-z][a-z0-9_-]{0,2}[a-z0-9]", fullmatch=True)


@st.composite
def graphs(draw: st.DrawFn, depth: int = 3) -> dict[str, Any]:
    """Steps that need only earlier ones, some of them groups."""
    steps: dict[str, Any] = {}
    for step_id in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        needs = draw(st.lists(st.sampled_from(sorted(steps)), unique=True)) if steps else []
        kind = draw(st.sampled_from(["transform", "wait", "workflow", *(["group"] * 2 if depth else [])]))
        value: Any = {"transform": 1, "wait": {"signal": draw(names)}, "workflow": draw(names)}.get(kind)
        if kind == "group":
            value = {"steps": draw(graphs(depth=depth - 1))}
            steps[step_id] = {
                "input": dict.fromkeys(draw(st.lists(st.text("aé ._/~'", min_size=1, max_size=64), max_size=2)), 1)
            }
        steps[step_id] = {**steps.get(step_id, {}), "needs": needs, kind: value}
    return steps


def defined(steps: dict[str, Any]) -> WorkflowDefinition:
    return validate({"name": "x", "steps": steps}).definition


def uses_below(definition: WorkflowDefinition) -> set[tuple[str, int | None]]:
    """What the steps of this level use; `workflow` steps of groups are found by going into their parts."""
    found = {(step.workflow.name, step.workflow.version) for step in definition.steps.values() if step.workflow}
    return found.union(*(uses_below(part_of(definition, step_id)) for step_id in own_groups(definition)))


def own_groups(definition: WorkflowDefinition) -> list[str]:
    return [path for path in groups_of(definition) if "/" not in path]


@given(graphs())
def test_the_part_of_a_part_is_the_part_at_the_longer_path(steps: dict[str, Any]):
    definition = defined(steps)
    for outer in own_groups(definition):
        inside = part_of(definition, outer)
        for inner in groups_of(inside):
            assert part_of(inside, inner) == part_of(definition, f"{outer}/{inner}")


@given(graphs())
def test_every_group_has_a_path_and_every_path_leads_to_one(steps: dict[str, Any]):
    definition = defined(steps)
    paths = list(groups_of(definition))
    assert len(set(paths)) == len(paths) == canonical_json(definition).count(b'"group":')
    for path in paths:
        part = part_of(definition, path)
        assert validate(canonical_json(part)).definition == part
    assert uses_of(definition) == uses_below(definition)


@given(graphs(depth=0))
def test_every_step_leads_to_an_output(steps: dict[str, Any]):
    graph: dict[str, Step] = dict(defined(steps).steps)
    sinks = set(sink_outputs(graph))
    assert sinks
    for step in graph.values():
        assert not sinks & set(step.needs)
    reached, frontier = set(sinks), set(sinks)
    while frontier:
        frontier = {need for step_id in frontier for need in graph[step_id].needs} - reached
        reached |= frontier
    assert reached == set(graph)
