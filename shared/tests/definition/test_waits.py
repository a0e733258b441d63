"""Mistakes in questions, waits, and results that are kept, each with its message."""

import pytest
from definitions import mistakes, warnings

REST = """
name: flow
inputs: {topic: {type: string}}
secrets: [token]
agents: {writer: {model: 'offline:demo', instructions: 'On ${{ inputs.topic }}'}}
steps:
"""


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            "  a: {approval: {}}",
            "steps.a.approval.message: this is required; add message: what is to be decided",
        ),
        ("  a: {approval: 'Go?'}", "steps.a.approval: an object is needed here, and this is a string"),
        (
            "  a: {approval: {message: x, default: maybe}}",
            'steps.a.approval.default: "maybe" is not one of approve, reject, fail',
        ),
        (
            "  a: {approval: {message: x, form: {type: nope}}}",
            "steps.a.approval.form.type: this is not JSON Schema: 'nope' is not valid under any of the given schemas",
        ),
        (
            "  a: {approval: {message: '${{ secrets.token }}'}}",
            (
                "steps.a.approval.message: in `secrets.token`: a secret may only go into url, query, headers, json and "
                "body of an http step, or tool settings"
            ),
        ),
        (
            "  a: {wait: {signal: x, delay: 1s}}",
            "steps.a.wait: a wait has exactly one of delay, until and signal; write wait: {delay: 5s}",
        ),
        (
            "  a: {wait: {delay: 1s, timeout: 1h}}",
            "steps.a.wait.timeout: only a wait for a signal has a timeout; remove it",
        ),
        (
            "  a: {wait: {delay: 1s, default: 0}}",
            "steps.a.wait.default: only a wait for a signal has a default; remove it",
        ),
        (
            "  a: {wait: {signal: x, default: ['${{ inputs.topic }}']}}",
            "steps.a.wait.default: a default is written out, without expressions",
        ),
        (
            "  a: {wait: {signal: Paid Up}}",
            (
                'steps.a.wait.signal: "Paid Up" is not the name of a signal: lower-case letters, digits, _ and -, a '
                'letter first, at most 64; it is written out, without expressions; write "paid-up"'
            ),
        ),
        (
            "  a: {wait: {signal: '${{ inputs.topic }}'}}",
            (
                'steps.a.wait.signal: "${{ inputs.topic }}" is not the name of a signal: lower-case letters, digits, _ '
                "and -, a letter first, at most 64; it is written out, without expressions"
            ),
        ),
        ("  a: {python: f, cache: 1h}", "steps.a.cache: an object is needed here, and this is a string"),
        ("  a: {python: f, cache: {}}", "steps.a.cache.ttl: this is required; add ttl: 1h"),
        ("  a: {python: f, cache: {ttl: 0}}", "steps.a.cache.ttl: this must be more than 0"),
        (
            "  a: {transform: 1, cache: {ttl: 1h}}",
            "steps.a.cache: results of transform steps are not kept; only those of agent, http and python steps can be",
        ),
        (
            "  a: {python: f, cache: {ttl: 1h, key: '${{ inputs.tpic }}'}}",
            'steps.a.cache.key: in `inputs.tpic`: there is no input "tpic"; did you mean "topic"?',
        ),
    ],
)
def test_names_the_mistake_in_questions_waits_and_caches(steps: str, expected: str):
    assert mistakes(REST + steps) == [expected]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            "  a: {approval: {message: x, deadline: 24h}}",
            (
                "steps.a.approval.deadline: the execution ends 3600 s after its start, before these 86400 s are over; "
                "raise limits.timeout"
            ),
        ),
        (
            "  a: {wait: {delay: 2h}}",
            (
                "steps.a.wait.delay: the execution ends 3600 s after its start, before these 7200 s are over; "
                "raise limits.timeout"
            ),
        ),
        (
            "  a: {workflow: x, timeout: 2h}",
            (
                "steps.a.timeout: the execution ends 3600 s after its start, before these 7200 s are over; "
                "raise limits.timeout"
            ),
        ),
        (
            "  a: {approval: {message: x, default: reject}}",
            "steps.a.approval.default: default says what the deadline does, and there is none; add deadline: 24h",
        ),
        ("  a: {wait: {delay: 1s}, retry: {}}", "steps.a.retry: wait steps are not retried; remove it"),
        (
            "  a: {approval: {message: x}, timeout: 5s}",
            "steps.a.timeout: timeout has no meaning for approval steps; write approval: {deadline: ...}",
        ),
    ],
)
def test_warns_of_what_has_no_effect(steps: str, expected: str):
    assert warnings(REST + steps) == [expected]
