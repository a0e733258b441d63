from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_shared.expressions.errors import BlobNeeded, ExpressionError
from millrace_shared.expressions.paths import lookup, parse_path, spell
from millrace_shared.values import BlobRef, Payload

REF = BlobRef("a" * 64, 70_000)
SCOPE = {
    "inputs": {"topic": "tea", "first name": "Ada", "rows": [{"id": 1}, {"id": 2}]},
    "steps": {
        "load-all": {"output": {"score": 1, "rows": [{"c": 5}], "big": REF}, "status": "completed", "error": None},
        "skipped": {"output": None, "status": "skipped", "error": None},
        "nothing": {"output": None, "status": "completed", "error": None},
        "broken": {"output": None, "status": "failed", "error": {"message": "boom"}},
        "paid": {
            "output": Payload({"a": {"x": None, "y": 2}, "b": 1}, {"/a/x": REF}),
            "status": "completed",
            "error": None,
        },
        "whole": {"output": Payload(None, {"": REF}), "status": "completed", "error": None},
    },
}


def value(text: str, scope: Mapping[str, Any] = SCOPE) -> Any:
    path = parse_path(text)
    assert path is not None
    return lookup(path, scope)


def test_before_the_first_iteration_everything_is_null():
    first = {"iteration": 1, "previous": None}
    assert [value(text, first) for text in ("previous", "previous.a", "previous.a.b[1]", "iteration")] == [
        None,
        None,
        None,
        1,
    ]
    with pytest.raises(ExpressionError, match="previous is null"):
        value("previous.a", {"iteration": 2, "previous": None})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inputs.topic", "tea"),
        ("  inputs.topic ", "tea"),
        ('inputs["first name"]', "Ada"),
        ("inputs['first name']", "Ada"),
        ("inputs.rows[1].id", 2),
        ("steps.load-all.output.rows[0].c", 5),
        ("steps.load-all.status", "completed"),
        ("steps['load-all'].output.score", 1),
        ("steps.skipped.output.deep.down[3]", None),
        ("steps.broken.output.deep", None),
        ("steps.broken.error.message", "boom"),
        ("steps.load-all.error.message", None),
        ("steps.load-all.output.big", REF),
        ("steps.paid.output.a.y", 2),
        ("steps.paid.output.b", 1),
        ("steps.paid.output.a.x", REF),
    ],
)
def test_finds_the_value(text: str, expected: Any):
    assert value(text) == expected


def test_keeps_the_references_below_the_path():
    assert value("steps.paid.output.a") == Payload({"x": None, "y": 2}, {"/x": REF})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "steps.load-all.output.scor",
            'steps.load-all.output has no "scor"; it has score, rows, big; did you mean "score"?',
        ),
        ("inputs.rows[2]", "inputs.rows has 2 items, and no [2]"),
        ("inputs.rows.id", 'inputs.rows is a list, and has no "id"'),
        ("inputs.topic.x", 'inputs.topic is a string, and has no "x"'),
        ("steps.nothing.output.x", 'steps.nothing.output is null, and has no "x"'),
        ("item", "item has no value here"),
    ],
)
def test_says_what_is_there_when_a_key_is_missing(text: str, reason: str):
    with pytest.raises(ExpressionError) as caught:
        value(text)
    assert caught.value.reason == reason


@pytest.mark.parametrize("text", ["steps.load-all.output.big.x", "steps.paid.output.a.x.y", "steps.whole.output.z"])
def test_asks_for_the_blob_that_a_path_leads_into(text: str):
    with pytest.raises(BlobNeeded) as caught:
        value(text)
    assert caught.value.refs == {REF}


@pytest.mark.parametrize(
    "text", ["a + b", "f(x)", "true", "null", "inputs.x == 1", "1", "'a'", "inputs[x]", "", "a..b"]
)
def test_leaves_other_expressions_to_cel(text: str):
    assert parse_path(text) is None


class OnlyOnce(Mapping[str, Any]):
    """A mapping that counts what is read of it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data
        self.read: list[str] = []

    def __getitem__(self, key: str) -> Any:
        self.read.append(key)
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


def test_reads_a_scope_lazily():
    steps = OnlyOnce({"a": {"output": 1, "status": "completed", "error": None}, "b": {}})
    path = parse_path("steps.a.output")
    assert path is not None
    assert lookup(path, {"steps": steps}) == 1
    assert steps.read == ["a"]


_keys = st.one_of(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
    st.integers(0, 99),
    st.text(st.characters(exclude_characters="\"'\\\n", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
)


@given(st.lists(_keys, max_size=6))
def test_a_spelt_path_reads_back(keys: list[str | int]):
    plain = [key for key in keys if not (isinstance(key, str) and "-" in key)]
    path = parse_path(spell("inputs", tuple(plain)))
    assert path is not None
    assert path.keys == tuple(plain)
