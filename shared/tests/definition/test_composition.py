"""Mistakes in groups, plans, sub-workflows and loops, each with its message."""

from typing import Any

import pytest
from definitions import mistakes, warnings

from millrace_shared.definition.errors import DefinitionInvalid
from millrace_shared.definition.validation import validate

REST = """
name: flow
inputs: {topic: {type: string}}
secrets: [token]
agents: {writer: {model: 'offline:demo', instructions: 'On ${{ inputs.topic }}'}}
steps:
"""

TEAM = "  team:\n    input: {topic: x}\n    group:\n      steps:\n"
FOR_EACH = "exists only under for_each, in what the step does for each item"
REPEAT = "exists only under repeat, in what the step does in each iteration"
OUTPUT = "`output` exists only in repeat.until, where it is what the iteration gave"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("  a: {group: 3}", "steps.a.group: an object is needed here, and this is a number"),
        ("  a: {group: {}}", "steps.a.group.steps: this is required; add steps:"),
        ("  a: {group: {steps: {}}}", "steps.a.group.steps: there must be at least 1 of these"),
        (
            "  a: {group: {steps: {b: {transform: 1}}, concurrency: {limit: 1}}}",
            "steps.a.group.concurrency: concurrency belongs to the workflow as a whole",
        ),
        (
            "  a: {group: {steps: {b: {transform: 1}}, stepz: 1}}",
            'steps.a.group.stepz: there is no key "stepz" here; did you mean "steps"?',
        ),
        (
            TEAM + "        a: {transform: 1, http: {url: 'https://x'}}",
            "steps.team.group.steps.a: a step has one kind, and this one has http and transform; make it several steps",
        ),
        (
            TEAM + "        a: {transform: 1, timeot: 3}",
            'steps.team.group.steps.a.timeot: there is no key "timeot" here; did you mean "timeout"?',
        ),
        (
            TEAM + "        a: {needs: [c], transform: 1}\n        b: {transform: 1}",
            'steps.team.group.steps.a.needs[0]: there is no step "c"',
        ),
        (
            TEAM + "        a: {needs: [outer], transform: 1}\n  outer: {transform: 1}",
            (
                'steps.team.group.steps.a.needs[0]: "outer" is outside of the group "team", whose steps need only one '
                "another; let team need it"
            ),
        ),
        (
            TEAM + "        a: {needs: [b], transform: 1}\n        b: {needs: [a], transform: 1}",
            "steps.team.group.steps.a.needs: these steps wait for one another: a → b → a; remove one of these needs",
        ),
        (
            TEAM + "        a: {transform: 1}\n        b: {transform: '${{ steps.a.output }}'}",
            (
                "steps.team.group.steps.b.transform: in `steps.a.output`: `steps.a` is not an ancestor of `b`; "
                "add a to needs"
            ),
        ),
        (
            TEAM + "        a: {transform: '${{ steps.outer.output }}'}\n  outer: {transform: 1}",
            (
                "steps.team.group.steps.a.transform: in `steps.outer.output`: `steps.outer` is outside of the group "
                '"team", which sees its own steps only; pass it in by the input of team'
            ),
        ),
        (
            TEAM + "        a: {transform: '${{ inputs.topik }}'}",
            (
                'steps.team.group.steps.a.transform: in `inputs.topik`: the group "team" has no input "topik"; '
                'did you mean "topic"?'
            ),
        ),
        (
            "  team: {group: {steps: {a: {transform: '${{ inputs.topic }}'}}}}",
            (
                'steps.team.group.steps.a.transform: in `inputs.topic`: the group "team" has no input "topic"; '
                "add it to the input of team"
            ),
        ),
        (
            "  team: {for_each: [1], group: {steps: {a: {transform: '${{ item }}'}}}}",
            f"steps.team.group.steps.a.transform: in `item`: `item` {FOR_EACH}; pass it in by the input of team",
        ),
        (
            "  team: {group: {steps: {a: {python: f, input: {x: '${{ previous }}'}}}}, repeat: {until: output.a}}",
            f"steps.team.group.steps.a.input.x: in `previous`: `previous` {REPEAT}; pass it in by the input of team",
        ),
        (
            "  team: {group: {steps: {a: {transform: 1}}, outputs: {o: '${{ steps.b.output }}'}}}",
            'steps.team.group.outputs.o: in `steps.b.output`: there is no step "b"',
        ),
        (
            "  team: {group: {steps: {a: {agent: writter, prompt: x}}}}",
            'steps.team.group.steps.a.agent: there is no agent "writter"; did you mean "writer"?',
        ),
        (
            "  team: {group: {steps: {a: {agent: writer, prompt: x}}}}",
            (
                "steps.team.group.steps.a.agent: in `inputs.topic` in the instructions of writer: "
                'the group "team" has no input "topic"; add it to the input of team'
            ),
        ),
    ],
)
def test_names_the_mistake_in_a_group(steps: str, expected: str):
    assert mistakes(REST + steps) == [expected]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            "  a: {workflow: 3}",
            (
                "steps.a.workflow: a workflow step names a workflow; write workflow: name, "
                "or workflow: {name: name, version: 1}"
            ),
        ),
        (
            "  a: {workflow: Bad Name}",
            (
                'steps.a.workflow: "Bad Name" is not a workflow name: lower-case letters, digits, - and _, beginning '
                'and ending with a letter or digit; write "bad-name"'
            ),
        ),
        ("  a: {workflow: {name: x, version: 0}}", "steps.a.workflow.version: this must be at least 1"),
        (
            "  a: {plan: steps}",
            "steps.a.plan: an expression or an object is needed here, and this is text; write ${{ steps }}",
        ),
        ("  a: {plan: [1]}", "steps.a.plan: an expression or an object is needed here, and this is a list"),
        ("  a: {plan: {outputs: {}}}", "steps.a.plan: a plan has steps; add steps:"),
        ("  a: {plan: '${{ steps.b.output }}'}", 'steps.a.plan: in `steps.b.output`: there is no step "b"'),
    ],
)
def test_names_the_mistake_in_what_is_run(steps: str, expected: str):
    assert mistakes(REST + steps) == [expected]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("  a: {python: f, repeat: 3}", "steps.a.repeat: an object is needed here, and this is a number"),
        (
            "  a: {python: f, repeat: {}}",
            "steps.a.repeat.until: this is required; add until: a condition on output",
        ),
        (
            "  a: {python: f, repeat: {until: '${{ output }}'}}",
            "steps.a.repeat.until: in `${{ output }}`: a condition is a bare expression; write it without ${{ }}: output",  # noqa: E501
        ),
        ("  a: {python: f, repeat: {until: true, max: 1001}}", "steps.a.repeat.max: this must be at most 1000"),
        (
            "  a: {python: f, repeat: {until: true, on_max: stop}}",
            'steps.a.repeat.on_max: "stop" is not one of complete, fail',
        ),
        (
            "  a: {transform: 1, repeat: {until: true}}",
            "steps.a.repeat: transform steps cannot repeat; put the step into a group, and repeat that",
        ),
        (
            "  a: {approval: {message: x}, repeat: {until: true}}",
            "steps.a.repeat: approval steps cannot repeat; put the step into a group, and repeat that",
        ),
        (
            "  a: {python: f, repeat: {until: iteration}}",
            "steps.a.repeat.until: in `iteration`: a condition must be true or false, and iteration is a number",
        ),
        (
            "  a: {python: f, repeat: {until: steps.a.output.ok}}",
            "steps.a.repeat.until: in `steps.a.output.ok`: a step cannot read its own result; write output",
        ),
        (
            "  a: {python: f, repeat: {until: item.ok}}",
            f"steps.a.repeat.until: in `item.ok`: `item` {FOR_EACH}",
        ),
        (
            "  a: {python: f, input: {x: '${{ output }}'}, repeat: {until: true}}",
            f"steps.a.input.x: in `output`: {OUTPUT}; write previous",
        ),
        (
            "  a: {transform: '${{ output.x }}'}",
            f"steps.a.transform: in `output.x`: {OUTPUT}; write steps.<id>.output",
        ),
        (
            "  a: {python: f, input: {x: '${{ previous.x }}'}}",
            f"steps.a.input.x: in `previous.x`: `previous` {REPEAT}",
        ),
        (
            "  a: {python: f, when: iteration > 1, repeat: {until: true}}",
            f"steps.a.when: in `iteration > 1`: `iteration` {REPEAT}",
        ),
        (
            "  a: {python: f, when: 'inputs.topic.exists(output, output)'}",
            (
                "steps.a.when: in `inputs.topic.exists(output, output)`: output already has a meaning and cannot be "
                "the variable of a macro; use another name, such as x"
            ),
        ),
    ],
)
def test_names_the_mistake_in_a_loop(steps: str, expected: str):
    assert mistakes(REST + steps) == [expected]


@pytest.mark.parametrize(
    "steps",
    [
        # The group's inputs are the keys of its step's input; `item` and `previous` get in by that door.
        "  a: {for_each: [1], input: {x: '${{ item }}'}, group: {steps: {b: {transform: '${{ inputs.x }}'}}}}",
        "  a: {for_each: [[1]], input: {x: '${{ item }}'}, group: {steps: {b: {for_each: '${{ inputs.x }}', transform: '${{ item }}'}}}}",  # noqa: E501
        "  a: {input: {x: '${{ previous.score }}'}, group: {steps: {b: {python: f}}}, repeat: {until: output.b.ok}}",
        "  a: {group: {steps: {b: {transform: '${{ execution.id }} ${{ workflow.name }}'}}}}",
        "  a: {input: {topic: 1}, group: {steps: {b: {agent: writer, prompt: x}}}}",
        "  a: {group: {steps: {a: {transform: 1}, b: {needs: [a], transform: '${{ steps.a.output }}'}}}}",
        "  a: {group: {steps: {b: {http: {url: 'https://x', headers: {A: '${{ secrets.token }}'}}}}}}",
        "  a: {for_each: [1], agent: writer, prompt: '${{ item }} ${{ iteration }} ${{ previous }}', repeat: {until: 'output.x > 0.8 || iteration > index || previous == output'}}",  # noqa: E501
        "  a: {for_each: [1], approval: {message: '${{ item }}', deadline: 1m}}",
        "  a: {for_each: [1], python: f, cache: {ttl: 1h, key: '${{ item }}-${{ inputs.topic }}'}}",
        "  a: {for_each: [1], workflow: billing, input: {n: '${{ item }}'}}",
        "  a: {plan: {steps: {b: {transform: '$${{ inputs.x }}'}}, name: '${{ inputs.topic }}'}, input: {x: 1}}",
        "  a: {wait: {signal: paid, timeout: 1h, default: null}}",
    ],
)
def test_accepts(steps: str):
    assert warnings(REST + steps) == []


def test_an_agent_that_works_in_groups_alone_may_read_their_inputs_alone():
    source = """
name: flow
agents: {w: {model: 'offline:demo', instructions: 'Use ${{ inputs.style }}'}}
steps: {team: {input: {style: plain}, group: {steps: {a: {agent: w, prompt: x}}}}}
"""
    assert validate(source).warnings == ()
    with pytest.raises(DefinitionInvalid) as caught:
        validate(source.replace("steps: {team", "steps: {b: {agent: w, prompt: x}, team"))
    assert [problem.path for problem in caught.value.problems] == ["agents.w.instructions"]


def nested(depth: int) -> dict[str, Any]:
    return {"transform": 1} if depth == 0 else {"group": {"steps": {"a": nested(depth - 1)}}}


def test_groups_are_nested_eight_deep():
    validate({"name": "x", "steps": {"a": nested(8)}})
    assert mistakes({"name": "x", "steps": {"a": nested(10)}}) == [
        "steps.a.group." + "steps.a.group." * 7 + "steps.a.group: groups are nested deeper than 8; "
        "make the inner ones a workflow of their own"
    ]


def many(count: int, step: dict[str, Any] | None = None) -> dict[str, Any]:
    return {f"s{number}": step or {"transform": number} for number in range(count)}


def test_steps_of_groups_count():
    group = {"steps": many(5_000), "outputs": {"x": 1}}
    steps: dict[str, Any] = {"a": {"group": group}, "b": {"group": group}}
    assert mistakes({"name": "x", "steps": steps}) == [
        "steps: there are 10002 steps, those of groups included; 10000 are allowed"
    ]


def test_a_group_with_very_many_last_steps_names_its_outputs():
    group: dict[str, Any] = {"steps": many(201)}
    assert mistakes({"name": "x", "steps": {"a": {"group": group}}}) == [
        (
            "steps.a.group.outputs: without outputs its 201 last steps would be the output, and 200 are allowed; "
            "name its outputs"
        )
    ]
    validate({"name": "x", "steps": {"a": {"group": {**group, "outputs": {"x": "${{ steps.s3.output }}"}}}}})


@pytest.mark.parametrize("what", [{"group": {"steps": {"b": {"transform": 1}}}}, {"plan": {"steps": {}}}])
def test_the_keys_of_an_input_are_names_of_inputs(what: dict[str, Any]):
    kind = next(iter(what))
    with pytest.raises(DefinitionInvalid) as caught:
        validate({"name": "x", "steps": {"a": {"input": {"": 1, "y" * 65: 2, "ok": 3}, **what}}})
    assert [problem.message for problem in caught.value.problems] == ["the name of an input has 1 to 64 characters"] * 2
    assert mistakes({"name": "x", "steps": {"a": {"input": {f"k{number}": 1 for number in range(201)}, **what}}}) == [
        f"steps.a.input: a {kind} has at most 200 inputs, and these are 201"
    ]
    validate({"name": "x", "steps": {"a": {"input": {"": 1}, "workflow": "b"}}})


def test_a_hundred_other_workflows_may_be_used():
    calls = [{"workflow": {"name": "w", "version": number + 1}} for number in range(101)]
    steps = {f"s{number}": call for number, call in enumerate(calls)}
    assert mistakes({"name": "x", "steps": steps}) == ["steps: the steps run 101 other workflows, and 100 are allowed"]
    validate({"name": "x", "steps": many(1_000, calls[0])})
