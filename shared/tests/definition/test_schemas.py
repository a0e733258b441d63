"""Applying schemas: the same answers as jsonschema's own, in bounded time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from millrace_shared.definition.schemas import mistakes_of, validator

UNIQUE = {"type": "array", "uniqueItems": True}

values = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, 1, 1.0, 0.0, -0.0, 2, 2.5, "", "1", "a", 2**60]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=8,
)


@given(st.lists(values, max_size=6))
def test_items_are_told_apart_as_json_schema_says(items: list[Any]) -> None:
    assert validator(UNIQUE).is_valid(items) == Draft202012Validator(UNIQUE).is_valid(items)


@pytest.mark.timeout(60)
def test_many_objects_are_told_apart_without_comparing_each_with_each() -> None:
    items = [{"id": number, "tags": ["a", None, True]} for number in range(50_000)]
    assert validator(UNIQUE).is_valid(items)
    assert not validator(UNIQUE).is_valid([*items, items[0]])


def test_what_is_there_twice_is_said_in_one_line() -> None:
    ((place, message),) = mistakes_of({"properties": {"rows": UNIQUE}}, {"rows": [{"a": 1}, {"a": 1.0}]})
    assert place == "rows"
    assert message == '[{"a": 1}, {"a": 1.0}] has non-unique elements'
