"""A definition as a whole: mistakes are told all at once, null is absent, and what has no effect is warned of."""

from typing import Any

import pytest
from definitions import flow, mistakes, warnings

from millrace_shared.definition.errors import DefinitionInvalid
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.validation import validate


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("stepz: {}", ['stepz: there is no key "stepz" here; did you mean "steps"?']),
        ("version: 2", ["version: 2 is not 1"]),
        ("limits: {timeout: 0}", ["limits.timeout: this must be more than 0"]),
        (
            "triggers: []",
            ["triggers: triggers are no part of a definition; create them beside the workflow that they start"],
        ),
        (
            "agents: {w: {model: gpt-4}}",
            ['agents.w.model: "gpt-4" is not a model; write provider:model, such as groq:llama-3.1-8b-instant'],
        ),
        (
            "agents: {w: {model: 'offline:b', instructions: '${{ steps.a.output }}'}}",
            [
                (
                    "agents.w.instructions: in `steps.a.output`: an agent is shared by steps, so it cannot read their "
                    "results; put it into the step's prompt"
                )
            ],
        ),
        (
            "inputs: {mode: {type: string, default: 3}}",
            ["inputs.mode.default: the default does not fit its own schema: 3 is not of type 'string'"],
        ),
        ("outputs: {r: '${{ steps.b.output }}'}", ['outputs.r: in `steps.b.output`: there is no step "b"']),
        (
            "inputs: {a: {pattern: '(?=x)'}}",
            [
                "inputs.a.pattern: invalid regular expression: invalid perl operator: (?= (patterns are RE2, without look-around)"  # noqa: E501
            ],
        ),
    ],
)
def test_names_the_mistake_elsewhere(rest: str, expected: list[str]):
    assert mistakes(flow("  a: {transform: 1}", rest)) == expected


def test_reports_every_mistake_at_once_in_document_order_with_lines():
    source = """name: My Flow
inputs:
  topic: {type: strin}
steps:
  load: {needs: [transfrom], agent: nobody, timeot: 3}
  transform:
    transform: ${{ inputs.topicc }}
    when: 1 +
  transform: {transform: 2}
outputs:
  r: ${{ steps.reprt.output }}
"""
    with pytest.raises(DefinitionInvalid) as caught:
        validate(source)
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (1, "name"),
        (3, "inputs.topic.type"),
        (5, "steps.load"),
        (5, "steps.load.needs[0]"),
        (5, "steps.load.agent"),
        (5, "steps.load.timeot"),
        (7, "steps.transform.transform"),
        (8, "steps.transform.when"),
        (9, "steps.transform"),
        (11, "outputs.r"),
    ]


def test_null_is_absent_everywhere():
    absent = validate({"name": "x", "steps": {"a": {"transform": {"kept": None}}}}).definition
    fields = [
        "name",
        "description",
        "needs",
        "when",
        "run",
        "for_each",
        "max_parallel",
        "input",
        "output",
        "retry",
        "timeout",
        "on_error",
        "agent",
        "prompt",
        "http",
        "python",
        "wait",
        "approval",
        "workflow",
        "group",
        "plan",
        "repeat",
        "cache",
    ]
    step: dict[str, Any] = {"transform": {"kept": None}, **dict.fromkeys(fields)}
    top: dict[str, Any] = dict.fromkeys(WorkflowDefinition.model_fields.keys() - {"name", "steps"})
    assert validate({"name": "x", **top, "steps": {"a": step}}).definition == absent
    assert absent.steps["a"].transform == {"kept": None}


def test_null_in_place_of_everything_is_a_mistake_not_a_crash():
    assert mistakes({"name": None, "steps": None}) == [
        "name: this is required; add name: my-workflow",
        "steps: this is required; add steps:",
    ]
    assert mistakes({"name": "x", "steps": {"a": {"transform": 1, "needs": [None]}}}) == [
        "steps.a.needs[0]: text is needed here, and this is null"
    ]
    assert mistakes("null") == ["a definition is an object; begin with name: and steps:"]


def test_warns_of_what_has_no_effect():
    source = flow("  a: {transform: 1, max_parallel: 3, input: {x: 1}}")
    assert warnings(source) == [
        "steps.a.max_parallel: max_parallel has no meaning without for_each; remove it",
        "steps.a.input: transform steps do not read input; only agent, python, workflow, group and plan steps do",
    ]
