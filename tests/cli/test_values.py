import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.cli.values import InputUnreadable, parse_input

DEFINITION = {"inputs": {"name": {"type": "string"}, "n": {"type": "integer"}, "any": {}}}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_text_stays_text_where_the_input_is_a_string():
    assert parse_input(["name=12", "n=12", "any=true"], None, DEFINITION) == {"name": "12", "n": 12, "any": True}


def test_what_is_no_json_is_text_and_only_the_first_equals_sign_divides():
    assert parse_input(["any=a=b", "unknown=x"], None, DEFINITION) == {"any": "a=b", "unknown": "x"}


def test_pairs_go_before_the_file():
    assert parse_input(["n=2"], '{"n": 1, "name": "Ada"}', DEFINITION) == {"n": 2, "name": "Ada"}


@given(json_values)
def test_any_json_value_can_be_given(value: object):
    assert parse_input([f"any={json.dumps(value)}"], None, DEFINITION) == {"any": value}


@given(st.text())
def test_any_text_can_be_given(text: str):
    assert parse_input([f"name={text}"], None, DEFINITION) == {"name": text}


@pytest.mark.parametrize("pair", ["", "n", "=1"])
def test_a_pair_without_a_name_or_a_value(pair: str):
    with pytest.raises(InputUnreadable, match="takes name=value"):
        parse_input([pair], None, DEFINITION)


@pytest.mark.parametrize("document", ["", "[1]", "null", "{", "[" * 100_000])
def test_a_file_that_is_no_object(document: str):
    with pytest.raises(InputUnreadable):
        parse_input([], document, DEFINITION)
