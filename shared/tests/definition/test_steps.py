"""Mistakes in one step, each with its message."""

import pytest
from definitions import flow, mistakes

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


@pytest.mark.parametrize(("steps", "expected"), BAD_STEPS)
def test_names_the_mistake_in_a_step(steps: str, expected: list[str]):
    assert mistakes(flow(steps)) == expected
