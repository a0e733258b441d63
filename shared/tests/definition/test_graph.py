import itertools

from hypothesis import given
from hypothesis import strategies as st

from millrace_shared.definition.graph import ancestors, children, find_cycle, topological_order

NAMES = [f"s{number}" for number in range(12)]
Graph = dict[str, list[str]]

any_graph = st.fixed_dictionaries({}, optional={name: st.lists(st.sampled_from(NAMES), max_size=5) for name in NAMES})


@st.composite
def acyclic(draw: st.DrawFn) -> Graph:
    names = draw(st.permutations(NAMES))
    return {
        name: draw(st.lists(st.sampled_from(names[:position]), max_size=4, unique=True)) if position else []
        for position, name in enumerate(names)
    }


def reach(graph: Graph, start: str) -> set[str]:
    """The reference: what can be reached along needs, by plain search."""
    seen: set[str] = set()
    stack = list(graph[start])
    while stack:
        step = stack.pop()
        if step in graph and step not in seen:
            seen.add(step)
            stack.extend(graph[step])
    return seen


@given(any_graph)
def test_a_cycle_is_found_exactly_when_a_step_reaches_itself(graph: Graph):
    cycle = find_cycle(graph)
    assert (cycle is not None) == any(step in reach(graph, step) for step in graph)
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle[:-1])) == len(cycle) - 1
        assert all(need in graph[step] for step, need in itertools.pairwise(cycle))


@given(acyclic())
def test_needs_come_first_in_the_order(graph: Graph):
    order = topological_order(graph)
    assert sorted(order) == sorted(graph)
    place = {step: position for position, step in enumerate(order)}
    assert all(place[need] < place[step] for step, needs in graph.items() for need in needs)


@given(acyclic())
def test_ancestors_are_what_can_be_reached(graph: Graph):
    index = ancestors(graph)
    for step in graph:
        assert set(index.of(step)) == reach(graph, step)
        assert all(index.has(step, other) == (other in reach(graph, step)) for other in graph)


@given(any_graph)
def test_children_turn_needs_around(graph: Graph):
    found = children(graph)
    assert {(kid, step) for step, kids in found.items() for kid in kids} == {
        (step, need) for step, needs in graph.items() for need in needs if need in graph
    }


def test_a_long_chain_needs_no_recursion():
    graph = {f"s{number}": [f"s{number - 1}"] if number else [] for number in range(10_000)}
    index = ancestors(graph)
    assert index.has("s9999", "s0")
    assert not index.has("s0", "s9999")
    assert find_cycle({**graph, "s0": ["s9999"]}) is not None
