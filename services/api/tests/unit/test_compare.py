from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from millrace_api.domain.compare import DIFFERENCES_MAX, compare, differences
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.execution.tables import EXECUTIONS, STEPS

MOMENT = datetime(2026, 1, 15, 10, tzinfo=UTC)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


def workflow(*steps: str) -> WorkflowDefinition:
    return WorkflowDefinition.model_validate({"name": "w", "steps": {step: {"transform": 1} for step in steps}})


def execution(**columns: Any) -> dict[str, Any]:
    row = {**EXECUTIONS.new_row(("e",)), "status": "completed", "workflow_id": "w", "workflow_version": 1}
    return {**row, **columns}


def step(name: str, output: Any, **columns: Any) -> dict[str, Any]:
    row = {**STEPS.new_row(("e", name, -1)), "status": "completed", "output": {"data": output}}
    return {**row, **columns}


def test_places_are_json_pointers_in_order():
    a = {"same": [1, {"x": 1}], "gone": 1, "a/b": {"~": 1}, "list": [1, 2, 3]}
    b = {"same": [1, {"x": 1}], "new": None, "a/b": {"~": 2}, "list": [1, 9]}
    assert differences(a, b) == [
        {"path": "/gone", "kind": "removed", "a": 1},
        {"path": "/a~1b/~0", "kind": "changed", "a": 1, "b": 2},
        {"path": "/list/1", "kind": "changed", "a": 2, "b": 9},
        {"path": "/list/2", "kind": "removed", "a": 3},
        {"path": "/new", "kind": "added", "b": None},
    ]


def test_numbers_and_booleans_are_told_apart():
    assert [one["kind"] for one in differences([1, 1, 1], [True, 1.0, 1])] == ["changed", "changed"]


def test_there_is_a_limit_and_long_values_are_cut():
    found = differences({"long": "x" * 9_999}, {"long": "y" * 9_999})
    assert len(found[0]["a"]) < 300
    assert len(differences(list(range(999)), [])) == DIFFERENCES_MAX
    deep_a: Any = 1
    deep_b: Any = 2
    for _ in range(5_000):
        deep_a, deep_b = [deep_a], [deep_b]
    assert differences(deep_a, deep_b)[0]["path"] == "/0" * 5_000


@given(json_values, json_values)
def test_there_are_differences_exactly_between_different_values(a: Any, b: Any):
    same = repr(_sorted(a)) == repr(_sorted(b))
    assert (differences(a, b) == []) == same
    assert differences(a, a) == []


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return "object", sorted((name, _sorted(item)) for name, item in value.items())
    return [_sorted(item) for item in value] if isinstance(value, list) else (value,)


def test_two_executions_side_by_side():
    later = MOMENT + timedelta(seconds=2)
    a = execution(id="a", definition="1", input={"data": {"n": 1}}, output={"data": 1}, tokens_used=5)
    b = execution(id="b", definition="2", input={"data": {"n": 2}}, output={"data": 1}, workflow_version=2)
    steps_a = [step("one", 1, started_at=MOMENT, completed_at=later), step("two", {"k": 1})]
    steps_b = [step("one", 1), step("two", {"k": 2}, status="failed", retry_count=3), step("three", 3)]
    shown = compare((a, steps_a, workflow("one", "two")), (b, steps_b, workflow("one", "two", "three")))
    assert (shown["a"]["id"], shown["b"]["id"], shown["b"]["workflow_version"]) == ("a", "b", 2)
    same = ("same_workflow", "same_definition", "same_input", "same_results")
    assert [shown[name] for name in same] == [True, False, False, True]
    assert shown["input_differences"] == [{"path": "/n", "kind": "changed", "a": 1, "b": 2}]
    one, two, three = shown["steps"]
    assert (one["same_status"], one["same_output"], one["a"]["duration"]) == (True, True, 2.0)
    assert (two["same_status"], two["same_output"], two["b"]["retry_count"]) == (False, False, 3)
    assert two["output_differences"] == [{"path": "/k", "kind": "changed", "a": 1, "b": 2}]
    assert (three["step_id"], three["a"], three["same_status"]) == ("three", None, False)


def test_stored_values_are_compared_by_their_hash():
    def stored(digest: str) -> dict[str, Any]:
        return {"data": None, "refs": {"": {"sha256": digest * 64, "size_bytes": 9}}}

    def of(digest: str) -> Any:
        return execution(output=stored(digest)), [], workflow("one")

    assert compare(of("a"), of("a"))["same_results"]
    assert not compare(of("a"), of("b"))["same_results"]
    assert compare(of("a"), of("b"))["result_differences"][0]["path"] == "/sha256"
