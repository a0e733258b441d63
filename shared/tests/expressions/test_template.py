import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_shared.expressions.errors import BlobNeeded, ExpressionError, TemplateInvalid
from millrace_shared.expressions.evaluators import LocalEvaluator
from millrace_shared.expressions.template import compile_template
from millrace_shared.values import BlobRef, Payload

REF = BlobRef("a" * 64, 70_000)
OTHER = BlobRef("b" * 64, 80_000)
SCOPE = {
    "inputs": {"topic": "tea", "n": 3, "half": 0.5, "yes": True, "no": None, "rows": [1, {"a": 2}], "evil": "x"},
    "steps": {
        "big": {"output": REF, "status": "completed", "error": None},
        "list": {"output": [1, REF, {"deep": OTHER}], "status": "completed", "error": None},
        "paid": {"output": Payload({"x": None}, {"/x": REF}), "status": "completed", "error": None},
        "skipped": {"output": None, "status": "skipped", "error": None},
    },
    "item": {"url": "u"},
    "index": 4,
}
evaluate = LocalEvaluator().evaluate


def resolve(value: Any) -> Any:
    return compile_template(value).resolve(SCOPE, evaluate)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("${{ inputs.rows }}", [1, {"a": 2}]),
        ("${{inputs.n}}", 3),
        ("${{ inputs.n + 1 }}", 4),
        ("n is ${{ inputs.n }}", "n is 3"),
        ("${{ inputs.topic }}!", "tea!"),
        ("${{ inputs.half }}/${{ inputs.yes }}/${{ inputs.no }}", "0.5/true/"),
        ("rows: ${{ inputs.rows }}", 'rows: [1,{"a":2}]'),
        ("$${{ inputs.n }}", "${{ inputs.n }}"),
        ("$${{ inputs.n }} ${{ inputs.n }}", "${{ inputs.n }} 3"),
        ("${{ '}}' }}", "}}"),
        ("${{ {'a': {'b': inputs.n}} }}", {"a": {"b": 3}}),
        ({"a": ["${{ item.url }}", {"b": "${{ index }}"}], "c": None}, {"a": ["u", {"b": 4}], "c": None}),
        ("no expression: $ { {{ }}", "no expression: $ { {{ }}"),
        (None, None),
        ("${{ steps.skipped.output.anything }}", None),
    ],
)
def test_puts_values_in_place(template: Any, expected: Any):
    resolved = resolve(template)
    assert resolved.data == expected
    assert resolved.refs == {}
    assert resolved.secrets == {}


@pytest.mark.parametrize(
    ("template", "data", "refs"),
    [
        ("${{ steps.big.output }}", None, {"": REF}),
        ({"a/b": ["${{ steps.big.output }}"]}, {"a/b": [None]}, {"/a~1b/0": REF}),
        ("${{ steps.list.output }}", [1, None, {"deep": None}], {"/1": REF, "/2/deep": OTHER}),
        ({"in": "${{ steps.paid.output }}"}, {"in": {"x": None}}, {"/in/x": REF}),
    ],
)
def test_leaves_claim_checked_values_where_they_are(template: Any, data: Any, refs: dict[str, BlobRef]):
    assert resolve(template) == (data, refs, {})


def test_does_not_change_the_scope_when_it_takes_references_out():
    resolve("${{ steps.list.output }}")
    assert SCOPE["steps"]["list"]["output"] == [1, REF, {"deep": OTHER}]  # type: ignore[index]


def test_asks_for_all_needed_blobs_at_once():
    with pytest.raises(BlobNeeded) as caught:
        resolve(["${{ steps.big.output.x }}", "text ${{ steps.list.output }}", "${{ size(steps.big.output) }}"])
    assert caught.value.refs == {REF, OTHER}


def test_secrets_stand_beside_the_data():
    resolved = resolve({"headers": {"Authorization": "Bearer ${{ secrets.token }}"}, "q": "${{ inputs.topic }}"})
    assert resolved.data == {"headers": {"Authorization": None}, "q": "tea"}
    assert resolved.secrets == {"/headers/Authorization": ("Bearer ", "token", "")}


def test_text_next_to_a_secret_is_resolved():
    resolved = resolve("${{ inputs.n }}:${{ secrets.a }}-${{ secrets.b }}")
    assert resolved.secrets == {"": ("3:", "a", "-", "b", "")}


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_what_an_input_says_is_never_taken_for_an_expression_or_a_secret(text: str):
    hostile = text + "${{ secrets.token }}"
    scope = {"inputs": {"evil": hostile}}
    whole = compile_template({"a": "${{ inputs.evil }}", "b": "<${{ inputs.evil }}>"}).resolve(scope, evaluate)
    assert whole == ({"a": hostile, "b": f"<{hostile}>"}, {}, {})


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(_json)
def test_a_value_passes_unchanged(value: Any):
    scope = {"inputs": {"v": value}}
    assert compile_template({"x": "${{ inputs.v }}"}).resolve(scope, evaluate).data == {"x": value}
    if isinstance(value, dict | list):
        text = compile_template("=${{ inputs.v }}").resolve(scope, evaluate).data
        assert json.loads(text[1:]) == value


@given(_json.filter(lambda value: "${{" not in json.dumps(value)))
def test_a_template_without_expressions_is_itself(value: Any):
    assert compile_template(value).resolve({}, evaluate) == (value, {}, {})


def test_reports_every_mistake_with_its_place():
    with pytest.raises(TemplateInvalid) as caught:
        compile_template({"a": ["${{ inputz.x }}", "ok"], "b": "${{ 1 + }}", "c": "${{ x", "${{ k }}": 1})
    found = [(mistake.location, str(mistake.error)) for mistake in caught.value.mistakes]
    assert [place for place, _ in found] == [("a", 0), ("b",), ("c",), ("${{ k }}",)]
    assert 'did you mean "inputs"?' in found[0][1]
    assert "goes wrong at the end" in found[1][1]
    assert "add }}" in found[2][1]


@pytest.mark.parametrize(
    "text", ["${{ secrets.a + 'x' }}", "${{ secrets }}", "${{ secrets.a.b }}", "${{ size(secrets.a) }}"]
)
def test_a_secret_is_no_part_of_anything(text: str):
    with pytest.raises(TemplateInvalid):
        compile_template(text)


def test_bounds_text():
    scope = {"inputs": {"v": "x" * 600_000}}
    with pytest.raises(ExpressionError, match="longer than"):
        compile_template("${{ inputs.v }}${{ inputs.v }}").resolve(scope, evaluate)


def test_knows_the_steps_it_reads():
    template = compile_template(
        ["${{ steps.a-b.output.x }}", "${{ steps['c'].status == steps.d.status }}", "${{ index }}"]
    )
    assert template.step_ids == {"a-b", "c", "d"}


@given(st.text(max_size=60))
def test_any_text_compiles_or_is_refused(text: str):
    try:
        compile_template("${{" + text)
    except TemplateInvalid:
        return


def test_an_expression_must_close_within_its_bound():
    with pytest.raises(TemplateInvalid, match="no }} follows within 1024 bytes"):
        compile_template("${{ " + "1 + " * 100_000)


def test_expressions_are_counted():
    with pytest.raises(TemplateInvalid, match="over 5000 expressions"):
        compile_template(["${{ index }}"] * 5_002)
