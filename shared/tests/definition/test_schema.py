from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from millrace_shared.definition.loader import load
from millrace_shared.definition.schema import json_schema

EXAMPLES = sorted((Path(__file__).parents[3] / "examples" / "workflows").glob("*.yaml"))
VALIDATOR = Draft202012Validator(json_schema())


def test_is_a_json_schema_that_describes_every_field():
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    parts = [schema, *(part for part in schema["$defs"].values() if "properties" in part)]
    undescribed = [
        f"{part['title']}.{name}"
        for part in parts
        for name, field in part["properties"].items()
        if "description" not in field and "$ref" not in field
    ]
    assert undescribed == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_accepts_the_examples(path: Path):
    assert [error.message for error in VALIDATOR.iter_errors(load(path.read_bytes()).data)] == []


@pytest.mark.parametrize(
    ("step", "is_valid"),
    [
        ({"transform": 1, "needs": None, "retry": None, "when": None, "http": None}, True),
        ({"python": "a.b:c", "timeout": "1h30m"}, True),
        ({"python": {"call": "a.b:c"}, "timeout": 5, "for_each": [1]}, True),
        ({"transform": 1, "for_each": "${{ inputs.x }}", "when": True}, True),
        ({"transform": 1, "http": {"url": "https://x"}}, False),
        ({}, False),
        ({"transform": 1, "timeot": 5}, False),
        ({"transform": 1, "timeout": "soon"}, False),
        ({"transform": 1, "for_each": "inputs.x"}, False),
        ({"workflow": "billing", "input": {"n": 1}}, True),
        ({"workflow": {"name": "billing", "version": 3}}, True),
        ({"workflow": {"version": 3}}, False),
        ({"group": {"steps": {"b": {"transform": 1}}}, "for_each": [1]}, True),
        ({"group": {"steps": {"b": {"transform": 1, "http": {"url": "https://x"}}}}}, False),
        ({"group": {"steps": {"b": {"group": {"steps": {"c": {"transfrom": 1}}}}}}}, False),
        ({"plan": "${{ inputs.x }}"}, True),
        ({"plan": {"steps": {"b": {"transform": "$${{ inputs.x }}"}}}}, True),
        ({"plan": "inputs.x"}, False),
        ({"plan": {"outputs": {}}}, False),
        ({"approval": {"message": "Go?", "form": {"type": "object"}}}, True),
        ({"approval": {}}, False),
        ({"wait": {"signal": "paid", "default": None}}, True),
        ({"python": "f", "repeat": {"until": "output.ok"}}, True),
        ({"python": "f", "repeat": {"until": True, "max": 1001}}, False),
        ({"python": "f", "cache": {"ttl": "1h"}}, True),
    ],
)
def test_tells_steps_apart(step: dict[str, Any], is_valid: bool):
    assert VALIDATOR.is_valid({"name": "x", "steps": {"a": step}}) is is_valid


@pytest.mark.parametrize(
    ("key", "value", "is_valid"),
    [
        ("singleton", True, True),
        ("singleton", {"key": "${{ inputs.x }}"}, True),
        ("singleton", 3, False),
        ("concurrency", {"limit": 1, "on_limit": "cancel_oldest"}, True),
        ("concurrency", {"key": "x"}, False),
        ("throttle", {"limit": 1, "per": "1m"}, True),
        ("throttle", {"limit": 1, "per": "1m", "on_limit": "cancel_oldest"}, False),
        ("debounce", {"delay": "30s"}, True),
        ("triggers", [], False),
    ],
)
def test_knows_flow_control(key: str, value: Any, is_valid: bool):
    assert VALIDATOR.is_valid({"name": "x", key: value, "steps": {"a": {"transform": 1}}}) is is_valid
