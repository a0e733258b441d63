"""Mistakes in expressions, and in what they refer to, each with its message."""

import pytest
from definitions import flow, mistakes

from millrace_shared.definition.validation import validate

BAD_EXPRESSIONS = [
    (
        "  load: {transform: 1}\n  report: {transform: '${{ steps.load.output }}'}",
        [
            "steps.report.transform: in `steps.load.output`: `steps.load` is not an ancestor of `report`; add load to needs"  # noqa: E501
        ],
    ),
    (
        "  a: {transform: '${{ steps.b.output }}'}\n  b: {needs: [a], transform: 1}",
        ["steps.a.transform: in `steps.b.output`: `steps.b` runs after `a`, so it has no result yet"],
    ),
    (
        "  a: {transform: '${{ steps.a.output }}'}",
        ["steps.a.transform: in `steps.a.output`: a step cannot read its own result"],
    ),
    (
        "  load: {transform: 1}\n  b: {needs: [load], transform: {x: ['${{ steps.laod.output }}']}}",
        ['steps.b.transform.x[0]: in `steps.laod.output`: there is no step "laod"; did you mean "load"?'],
    ),
    (
        "  a: {transform: '${{ inputs.topicc }}'}",
        ['steps.a.transform: in `inputs.topicc`: there is no input "topicc"; did you mean "topic"?'],
    ),
    (
        "  a: {transform: 1, when: 'inputs.topicc == 1'}",
        ['steps.a.when: in `inputs.topicc == 1`: there is no input "topicc"; did you mean "topic"?'],
    ),
    (
        "  a: {transform: 1, when: inputs.topic > 3}",
        ["steps.a.when: in `inputs.topic > 3`: > cannot be applied to string and int"],
    ),
    (
        "  a: {transform: 1, when: inputs.topic}",
        ["steps.a.when: in `inputs.topic`: a condition must be true or false, and this input is string"],
    ),
    (
        "  a: {transform: '${{ inputs.topic.x }}'}",
        ["steps.a.transform: in `inputs.topic.x`: the input is of type string and has nothing below it"],
    ),
    (
        "  a: {transform: '${{ item }} ${{ index }}'}",
        [
            "steps.a.transform: in `item`: `item` exists only under for_each, in what the step does for each item",
            "steps.a.transform: in `index`: `index` exists only under for_each, in what the step does for each item",
        ],
    ),
    (
        "  a: {agent: w, prompt: '${{ secrets.token }}'}",
        [
            (
                "steps.a.prompt: in `secrets.token`: a secret may only go into url, query, headers, json and body "
                "of an http step, or tool settings"
            )
        ],
    ),
    (
        "  a: {transform: 1, when: secrets.token == 'x'}",
        [
            (
                "steps.a.when: in `secrets.token == 'x'`: a secret cannot be part of a larger expression; "
                "write ${{ secrets.<name> }} on its own"
            )
        ],
    ),
    (
        "  a: {http: {url: 'https://x', headers: {A: '${{ secrets.tokn }}'}}}",
        ['steps.a.http.headers.A: in `secrets.tokn`: the secret "tokn" is not declared; did you mean "token"?'],
    ),
    (
        "  a: {transform: '${{ sise(inputs.topic) }}'}",
        ['steps.a.transform: in `sise(inputs.topic)`: there is no function or name "sise"; did you mean "size"?'],
    ),
    (
        "  a: {transform: '${{ 1 +'}",
        ["steps.a.transform: in `1 +`: the expression is not closed; add }}"],
    ),
]
REST = """
inputs: {topic: {type: string}, any: {}}
secrets: [token]
agents: {w: {model: 'offline:demo'}}
"""


@pytest.mark.parametrize(("steps", "expected"), BAD_EXPRESSIONS)
def test_names_the_mistake_in_an_expression(steps: str, expected: list[str]):
    assert mistakes(flow(steps, REST)) == expected


def test_outputs_read_any_step_and_joins_read_far_ancestors():
    source = flow(
        "  a: {transform: 1}\n  b: {needs: [a], transform: 1}\n  c: {needs: [b], transform: '${{ steps.a.output }}'}",
        "outputs: {r: ['${{ steps.a.output }}', '${{ steps.c.status }}']}",
    )
    assert validate(source).warnings == ()
