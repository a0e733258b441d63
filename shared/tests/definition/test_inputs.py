from typing import Any

import pytest

from millrace_shared.definition.inputs import InputInvalid, complete_input
from millrace_shared.definition.validation import validate

DEFINITION = validate(
    """
name: flow
inputs:
  topic: {type: string, maxLength: 5, pattern: '^t'}
  mode: {type: string, enum: [fast, slow], default: fast}
  rows: {type: array, items: {type: integer}, default: []}
  maybe: {type: [string, 'null'], default: x}
  any: {default: 1}
steps: {a: {transform: 1}}
"""
).definition


def test_fills_in_defaults():
    assert complete_input(DEFINITION, {"topic": "tea"}) == {
        "topic": "tea",
        "mode": "fast",
        "rows": [],
        "maybe": "x",
        "any": 1,
    }


def test_null_is_absent_unless_the_schema_knows_it():
    complete = complete_input(DEFINITION, {"topic": "tea", "mode": None, "maybe": None})
    assert (complete["mode"], complete["maybe"]) == ("fast", None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, [(["input", "topic"], "missing")]),
        ({"topic": "tea", "mod": "x"}, [(["input", "mod"], "unknown")]),
        ({"topic": "tea time"}, [(["input", "topic"], "maxLength")]),
        ({"topic": 3}, [(["input", "topic"], "type")]),
        ({"topic": "coffee"}, [(["input", "topic"], "maxLength"), (["input", "topic"], "pattern")]),
        (
            {"topic": "tea", "rows": [1, "2"], "mode": "no"},
            [(["input", "mode"], "enum"), (["input", "rows", 1], "type")],
        ),
    ],
)
def test_reports_every_problem(given: dict[str, Any] | None, expected: list[Any]):
    with pytest.raises(InputInvalid) as caught:
        complete_input(DEFINITION, given)
    assert [(found["loc"], found["type"]) for found in caught.value.problems] == expected


def test_suggests_the_input_that_was_meant():
    with pytest.raises(InputInvalid, match='no input "topik"; did you mean "topic"'):
        complete_input(DEFINITION, {"topik": "tea"})


def test_long_values_are_cut():
    with pytest.raises(InputInvalid) as caught:
        complete_input(DEFINITION, {"topic": "t" * 10_000})
    assert len(caught.value.problems[0]["input"]) < 300


def test_patterns_take_linear_time():
    definition = validate("name: x\ninputs: {a: {pattern: '^(a+)+$'}}\nsteps: {a: {transform: 1}}").definition
    with pytest.raises(InputInvalid):
        complete_input(definition, {"a": "a" * 5_000 + "!"})
