"""Definitions that are huge, hostile or nonsense: each is valid or has problems, in bounded time."""

from typing import Any

import pytest
from definitions import flow, mistakes
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_shared.definition.errors import DefinitionInvalid
from millrace_shared.definition.validation import validate


def chain(count: int) -> str:
    return flow(
        "".join(
            f"  s{number}:\n    needs: [{f's{number - 1}' if number else ''}]\n"
            f"    transform: ${{{{ steps.s{number - 1}.output }}}}\n"
            if number
            else "  s0: {transform: 1}\n"
            for number in range(count)
        )
    )


def test_ten_thousand_steps_in_a_row_are_validated():
    assert len(validate(chain(10_000)).definition.steps) == 10_000


def test_a_step_more_is_refused():
    steps = {f"s{number}": {"transform": number} for number in range(10_001)}
    assert mistakes({"name": "x", "steps": steps}) == ["steps: there are more than 10000 of these"]


def test_ten_thousand_mistakes_are_cut_short():
    steps = "".join(f"  s{number}: {{needs: [x{number}], transform: 1}}\n" for number in range(10_000))
    found = mistakes(flow(steps))
    assert len(found) == 1_001
    assert found[-1] == "there are more than 1000 mistakes"
    # Comparing every word with every other took minutes here, so only the first mistakes get suggestions.
    assert sum("did you mean" in problem for problem in found) <= 200


def test_hostile_schemas_are_refused():
    doubling = {
        "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)},
        "$ref": "#/$defs/d0",
    }
    doubling["$defs"]["d30"] = {"type": "string"}  # type: ignore[index]
    (found,) = mistakes({"name": "x", "inputs": {"a": doubling}, "steps": {"s": {"transform": 1}}})
    assert "with its $refs followed, the schema has over" in found
    loop = {"$defs": {"d": {"$ref": "#/$defs/d"}}, "$ref": "#/$defs/d"}
    (found,) = mistakes({"name": "x", "inputs": {"a": loop}, "steps": {"s": {"transform": 1}}})
    assert "recursive schemas are not supported" in found


words = st.sampled_from(
    [
        "name",
        "steps",
        "inputs",
        "outputs",
        "agents",
        "secrets",
        "limits",
        "a",
        "b",
        "needs",
        "when",
        "transform",
        "http",
        "url",
        "wait",
        "delay",
        "python",
        "agent",
        "prompt",
        "for_each",
        "retry",
        "timeout",
        "output",
        "type",
        "${{inputs.a}}",
        "${{steps.b.output}}",
        "${{item",
        "1h",
        "string",
        "x:y",
        "group",
        "plan",
        "workflow",
        "approval",
        "message",
        "signal",
        "repeat",
        "until",
        "cache",
        "ttl",
        "concurrency",
        "singleton",
        "limit",
        "key",
        "output.a",
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=5),
    max_leaves=25,
)
almost = st.fixed_dictionaries(
    {"name": st.just("x"), "steps": st.dictionaries(words, st.dictionaries(words, anything, max_size=4), max_size=4)},
    optional=dict.fromkeys(
        ("inputs", "outputs", "agents", "secrets", "limits", "defaults", "concurrency", "singleton", "extra"), anything
    ),
)


@settings(max_examples=300)
@given(anything | almost)
def test_any_data_is_valid_or_has_problems(data: Any):
    try:
        validate(data)
    except DefinitionInvalid as error:
        problems = error.problems
    else:
        return
    assert problems
    assert len({(problem.path, problem.message) for problem in problems}) == len(problems)


@given(st.binary(max_size=300))
def test_any_bytes_are_valid_or_have_problems(source: bytes):
    with pytest.raises(DefinitionInvalid):
        validate(source)
