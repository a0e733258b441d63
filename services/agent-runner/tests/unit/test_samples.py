from typing import Any

import pytest
from jsonschema import Draft202012Validator

from millrace_agent_runner.domain.samples import sample

TREE = {
    "type": "object",
    "required": ["name", "children"],
    "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 0}},
}
SCHEMAS: list[Any] = [
    {},
    True,
    {"type": "string", "minLength": 40, "maxLength": 50},
    {"type": "string", "maxLength": 3},
    {"type": "integer", "minimum": 3},
    {"type": "integer", "exclusiveMinimum": 3, "maximum": 4},
    {"type": "integer", "multipleOf": 5, "minimum": 7},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "maximum": -5},
    {"type": ["null", "boolean"]},
    {"enum": ["a", "b"]},
    {"const": {"x": 1}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 3},
    {"type": "object", "required": ["undeclared"]},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"allOf": [{"required": ["a"]}, {"type": "object", "properties": {"a": {"type": "integer"}}}]},
    {"$defs": {"x/y": {"type": "boolean"}}, "properties": {"a": {"$ref": "#/$defs/x~1y"}}, "type": "object"},
    {"type": "string", "format": "date-time"},
    TREE,
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_a_sample_satisfies_its_schema_and_is_always_the_same(schema: Any) -> None:
    value = sample(schema, "text")
    Draft202012Validator(schema).validate(value)
    assert sample(schema, "text") == value


def test_a_schema_that_never_ends_gives_a_value_that_does() -> None:
    endless: Any = {"type": "object", "required": ["next"], "properties": {"next": {"$ref": "#"}}}
    assert "next" in sample(endless, "text")
    wide: Any = {"type": "object", "properties": {f"p{n}": {"$ref": "#"} for n in range(3)}}
    assert sample(wide, "text") is not None
