import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_shared.definition.errors import DefinitionInvalid, Problem
from millrace_shared.definition.loader import load
from millrace_shared.definition.locations import spell_location


def problems(source: str | bytes) -> list[tuple[str, int | None, int | None]]:
    try:
        found: tuple[Problem, ...] = tuple(load(source).problems)
    except DefinitionInvalid as error:
        found = error.problems
    return [(str(problem), problem.line, problem.column) for problem in found]


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("on: no", {"on": "no"}),
        ("a: yes\nb: off", {"a": "yes", "b": "off"}),
        ("a: true\nb: False\nc: TRUE", {"a": True, "b": False, "c": True}),
        ("a: ~\nb: null\nc:", {"a": None, "b": None, "c": None}),
        ("a: 1:30\nb: 0o17\nc: 0x1F\nd: 017", {"a": "1:30", "b": 15, "c": 31, "d": 17}),
        ("a: 1.5\nb: 1e3\nc: .5\nd: 1_000", {"a": 1.5, "b": 1000.0, "c": 0.5, "d": "1_000"}),
        ("a: 2026-01-15", {"a": "2026-01-15"}),
        ("1: x\ntrue: y\n~: z", {"1": "x", "true": "y", "~": "z"}),
        ("a: 'null'\nb: \"1\"", {"a": "null", "b": "1"}),
        ("a: |\n  1\n", {"a": "1\n"}),
        ("{a: 1, b: [x]}", {"a": 1, "b": ["x"]}),
        ("\ufeffa: 1", {"a": 1}),
        ("# nothing", None),
        ('{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    ],
)
def test_reads_yaml_1_2_and_json(text: str, data: Any):
    assert load(text).data == data
    assert load(text.encode()).data == data


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a: *x", [("a: aliases (*x) are not allowed; write the value out", 1, 4)]),
        ("a: &x 1", [("a: anchors (&x) are not allowed; remove it", 1, 4)]),
        (
            "a: !!python/object 1",
            [("a: tags (tag:yaml.org,2002:python/object) are not allowed; quote the value to make it text", 1, 4)],
        ),
        ("a:\n  <<: {b: 1}", [("a: merge keys (<<) are not allowed; write the keys out", 2, 3)]),
        ("a: 1\nb: 2\na: 3", [("a: this key is there twice; the first is in line 1", 3, 1)]),
        ('{"a": 1,\n "a": 3}', [("a: this key is there twice; the first is in line 1", 2, 2)]),
        ("a: .nan", [("a: .nan is not a finite number; quote it if it is text", 1, 4)]),
        ("a: 1\n---\nb: 2", [("the file holds several documents; keep one workflow in a file", 2, 1)]),
        ("a: b\x00", [("NUL is not allowed in a definition", 1, 5)]),
        ("a: 1\nb: \x07", [("control character U+0007 is not allowed in a definition", 2, 4)]),
        (b"a: 1\nb: \xff", [("byte 0xff at offset 8 is not UTF-8; save the file as UTF-8", 2, 1)]),
        ("a: 99999999999999999999", [("a: this number does not fit into 64 bits; quote it", 1, 1)]),
        ("? [a]\n: 1", [("a key must be text, not an object or a list", 1, 3)]),
        ('{"a": "\\ud800"}', [("a: text holds half of a surrogate pair, which is not a character", 1, 1)]),
    ],
)
def test_refuses_by_name(source: str | bytes, expected: list[Any]):
    assert problems(source) == expected


def test_says_where_the_syntax_breaks():
    ((message, line, _),) = problems("name: x\nsteps:\n  a: [1,\n")
    assert message.startswith("this is not YAML: ")
    assert line == 4


def test_size_is_checked_before_anything_is_read():
    ((message, _, _),) = problems("x" * 2_000_000)
    assert message.startswith("the document has 2000000 bytes, and 1048576 are allowed")
    ((message, _, _),) = problems("ü" * 600_000)
    assert message.startswith("the document has 1200000 bytes")


@pytest.mark.parametrize(
    "source", ["[" * 5_000, "{a: " * 5_000, "[" * 5_000 + "]" * 5_000, "- " * 5_000, '{"a":' * 900 + "1" + "}" * 900]
)
def test_depth_is_bounded(source: str):
    ((message, _, _),) = problems(source)
    assert "nested deeper than 32 levels" in message


def test_an_alias_bomb_is_refused_without_being_expanded():
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 30)
    )
    found = problems(bomb)
    assert len(found) == 30 + 29 * 9
    assert all("are not allowed" in message for message, _, _ in found)


def test_remembers_where_things_stand():
    for text in (
        "name: x\nsteps:\n  a:\n    needs: [b, c]\n",
        '{"name": "x",\n"steps":\n  {"a":\n    {"needs": ["b", "c"]}}}',
    ):
        document = load(text)
        assert document.position(("steps", "a", "needs", 1)) is not None
        assert document.position(("steps", "a", "needs"))[0] == 4  # type: ignore[index]
        assert document.position(("steps", "a", "missing")) == document.position(("steps", "a"))


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_are_read_or_refused(source: bytes | str):
    assert problems(source) == problems(source)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5), inner, max_size=4
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from("abc"), _json))
def test_json_reads_back(data: Any):
    assert load(json.dumps(data)).data == data


def test_locations_are_spelt_as_people_write_them():
    assert spell_location(("steps", "my-step", "needs", 0)) == "steps.my-step.needs[0]"
    assert spell_location(("inputs", "first name", "type")) == 'inputs["first name"].type'
    assert spell_location(()) == ""
