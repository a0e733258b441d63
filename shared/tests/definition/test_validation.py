from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_shared.definition.errors import DefinitionInvalid
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.validation import validate


def mistakes(source: Any) -> list[str]:
    with pytest.raises(DefinitionInvalid) as caught:
        validate(source)
    return [str(problem) for problem in caught.value.problems]


def flow(steps: str, rest: str = "") -> str:
    """A definition with these steps (indented by two) and anything else."""
    return f"name: flow\n{rest}\nsteps:\n{steps}"


BAD_STEPS = [
    (
        "  load: {needs: [transfrom], transform: 1}\n  transform: {transform: 1}",
        ['steps.load.needs[0]: there is no step "transfrom"; did you mean "transform"?'],
    ),
    (
        "  a: {needs: [c], transform: 1}\n  b: {needs: [a], transform: 1}\n  c: {needs: [b], transform: 1}",
        ["steps.a.needs: these steps wait for one another: a → c → b → a; remove one of these needs"],
    ),
    ("  a: {needs: [a], transform: 1}", ["steps.a.needs[0]: a step cannot need itself; remove it"]),
    (
        "  a: {transform: 1}\n  b: {needs: [a, a], transform: 1}",
        ['steps.b.needs[1]: "a" is there twice; remove one of them'],
    ),
    (
        "  a: {transform: 1, http: {url: 'https://x'}}",
        ["steps.a: a step has one kind, and this one has http and transform; make it several steps"],
    ),
    (
        "  a: {}",
        [
            "steps.a: a step needs a kind; add one of agent, http, python, transform, wait, approval, workflow, group, plan"  # noqa: E501
        ],
    ),
    ("  a: null", ["steps.a: an object is needed here, and this is null"]),
    ("  a: {wait: {}}", ["steps.a.wait: a wait has exactly one of delay, until and signal; write wait: {delay: 5s}"]),
    (
        "  a: {wait: {delay: soon}}",
        [
            'steps.a.wait.delay: "soon" is not a duration: write it like 250ms, 2s, 15m, 1h30m, or as a number of seconds'  # noqa: E501
        ],
    ),
    (
        "  a: {wait: {until: '2026-01-15'}}",
        ['steps.a.wait.until: "2026-01-15" is not an RFC 3339 time with a zone; write it like 2026-01-15T10:00:00Z'],
    ),
    ("  a: {transform: 1, timeot: 3}", ['steps.a.timeot: there is no key "timeot" here; did you mean "timeout"?']),
    (
        "  Load Data: {transform: 1}",
        [
            (
                'steps["Load Data"]: "Load Data" is not an id: lower-case letters, digits, _ and -, a letter first, '
                'at most 64; write "load-data"'
            )
        ],
    ),
    ("  a: {agent: writer, prompt: x}", ['steps.a.agent: there is no agent "writer"; declare it under agents']),
    ("  a: {transform: 1, prompt: x}", ["steps.a.prompt: only agent steps have a prompt"]),
    (
        "  a: {transform: 1, needs: b}",
        ["steps.a.needs: a list is needed here, and this is a string; write [b]"],
    ),
    ("  a: {python: 3}", ["steps.a.python: a python step names a function; write python: package.module:function"]),
    (
        "  a: {python: 'no such thing'}",
        ['steps.a.python: "no such thing" is not a function; write package.module:function'],
    ),
    (
        "  a: {python: {call: '1x'}}",
        ['steps.a.python.call: "1x" is not a function; write package.module:function'],
    ),
    (
        "  a: {http: {url: example.com}}",
        ["steps.a.http.url: a url begins with http:// or https://; write https://example.com"],
    ),
    (
        "  a: {http: {url: 'https://x', method: get}}",
        ['steps.a.http.method: "get" is not one of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS; did you mean "GET"?'],
    ),
    (
        "  a: {http: {url: 'https://x', json: {}, body: x}}",
        ["steps.a.http.body: a request has one body, and json is given, too; remove one of them"],
    ),
    ("  a: {transform: 1, retry: {max_attempts: 0}}", ["steps.a.retry.max_attempts: this must be at least 1"]),
    (
        "  a: {transform: 1, retry: {max_attempts: '3'}}",
        ["steps.a.retry.max_attempts: a whole number is needed here, and this is a string; remove the quotes"],
    ),
    (
        "  a: {transform: 1, retry: {initial: 5m, max: 1s}}",
        ["steps.a.retry.initial: the first pause (300 s) is longer than the longest (1 s)"],
    ),
    (
        "  a: {transform: 1, on_error: ignore}",
        ['steps.a.on_error: "ignore" is not one of fail, continue'],
    ),
    (
        "  a: {transform: 1, for_each: inputs.x}",
        ["steps.a.for_each: a list or an expression is needed here, and this is text; write ${{ inputs.x }}"],
    ),
    (
        "  a: {transform: 1, for_each: {a: 1}}",
        ["steps.a.for_each: a list or an expression is needed here, and this is an object"],
    ),
    (
        "  a: {transform: 1, output: {type: nope}}",
        ["steps.a.output.type: this is not JSON Schema: 'nope' is not valid under any of the given schemas"],
    ),
    (
        "  a: {transform: 1, output: {$ref: 'https://x/y.json'}}",
        ['steps.a.output["$ref"]: "https://x/y.json" is not in this schema; $ref must begin with #/$defs/'],
    ),
]

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


@pytest.mark.parametrize(("steps", "expected"), BAD_STEPS)
def test_names_the_mistake_in_a_step(steps: str, expected: list[str]):
    assert mistakes(flow(steps)) == expected


@pytest.mark.parametrize(("steps", "expected"), BAD_EXPRESSIONS)
def test_names_the_mistake_in_an_expression(steps: str, expected: list[str]):
    assert mistakes(flow(steps, REST)) == expected


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
            "agents: {w: {model: 'a:b', instructions: '${{ steps.a.output }}'}}",
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


def test_outputs_read_any_step_and_joins_read_far_ancestors():
    source = flow(
        "  a: {transform: 1}\n  b: {needs: [a], transform: 1}\n  c: {needs: [b], transform: '${{ steps.a.output }}'}",
        "outputs: {r: ['${{ steps.a.output }}', '${{ steps.c.status }}']}",
    )
    assert validate(source).warnings == ()


def test_warns_of_what_has_no_effect():
    source = flow("  a: {transform: 1, max_parallel: 3, input: {x: 1}}")
    assert [str(warning) for warning in validate(source).warnings] == [
        "steps.a.max_parallel: max_parallel has no meaning without for_each; remove it",
        "steps.a.input: transform steps do not read input; only agent, python, workflow, group and plan steps do",
    ]


def chain(count: int) -> str:
    return flow(
        "".join(
            f"  s{number}:\n    needs: [{f's{number - 1}' if number else ''}]\n"
            f"    transform: ${{{{ steps.s{number - 1}.output }}}}\n"
            if number
            else "  s0: {transform: 1}\n"
            for number in range(count)
        )
    )


def test_ten_thousand_steps_in_a_row_are_validated():
    assert len(validate(chain(10_000)).definition.steps) == 10_000


def test_a_step_more_is_refused():
    steps = {f"s{number}": {"transform": number} for number in range(10_001)}
    assert mistakes({"name": "x", "steps": steps}) == ["steps: there are more than 10000 of these"]


def test_ten_thousand_mistakes_are_cut_short():
    steps = "".join(f"  s{number}: {{needs: [x{number}], transform: 1}}\n" for number in range(10_000))
    found = mistakes(flow(steps))
    assert len(found) == 1_001
    assert found[-1] == "there are more than 1000 mistakes"
    # Comparing every word with every other took minutes here, so only the first mistakes get suggestions.
    assert sum("did you mean" in problem for problem in found) <= 200


def test_hostile_schemas_are_refused():
    doubling = {
        "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)},
        "$ref": "#/$defs/d0",
    }
    doubling["$defs"]["d30"] = {"type": "string"}  # type: ignore[index]
    (found,) = mistakes({"name": "x", "inputs": {"a": doubling}, "steps": {"s": {"transform": 1}}})
    assert "with its $refs followed, the schema has over" in found
    loop = {"$defs": {"d": {"$ref": "#/$defs/d"}}, "$ref": "#/$defs/d"}
    (found,) = mistakes({"name": "x", "inputs": {"a": loop}, "steps": {"s": {"transform": 1}}})
    assert "recursive schemas are not supported" in found


words = st.sampled_from(
    [
        "name",
        "steps",
        "inputs",
        "outputs",
        "agents",
        "secrets",
        "limits",
        "a",
        "b",
        "needs",
        "when",
        "transform",
        "http",
        "url",
        "wait",
        "delay",
        "python",
        "agent",
        "prompt",
        "for_each",
        "retry",
        "timeout",
        "output",
        "type",
        "${{inputs.a}}",
        "${{steps.b.output}}",
        "${{item",
        "1h",
        "string",
        "x:y",
        "group",
        "plan",
        "workflow",
        "approval",
        "message",
        "signal",
        "repeat",
        "until",
        "cache",
        "ttl",
        "concurrency",
        "singleton",
        "limit",
        "key",
        "output.a",
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=5),
    max_leaves=25,
)
almost = st.fixed_dictionaries(
    {"name": st.just("x"), "steps": st.dictionaries(words, st.dictionaries(words, anything, max_size=4), max_size=4)},
    optional=dict.fromkeys(
        ("inputs", "outputs", "agents", "secrets", "limits", "defaults", "concurrency", "singleton", "extra"), anything
    ),
)


@settings(max_examples=300)
@given(anything | almost)
def test_any_data_is_valid_or_has_problems(data: Any):
    try:
        validate(data)
    except DefinitionInvalid as error:
        problems = error.problems
    else:
        return
    assert problems
    assert len({(problem.path, problem.message) for problem in problems}) == len(problems)


@given(st.binary(max_size=300))
def test_any_bytes_are_valid_or_have_problems(source: bytes):
    with pytest.raises(DefinitionInvalid):
        validate(source)
