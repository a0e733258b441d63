import pytest
from pydantic import ValidationError

from millrace_shared.definition.limits import STEP_TIMEOUT_DEFAULT_S
from millrace_shared.definition.model import NO_RETRY, WorkflowDefinition
from millrace_shared.definition.validation import validate

DEFINITION = validate(
    """
name: flow
secrets: [key]
limits: {max_parallel: 4}
defaults: {retry: {max_attempts: 5}, timeout: 30s}
agents:
  w:
    model: offline:demo
    instructions: For ${{ workflow.name }}
    tools: [{name: search, config: {key: '${{ secrets.key }}'}}]
steps:
  ask: {agent: w, prompt: hi, input: {a: 1}}
  get:
    http: {url: 'https://x', json: {a: null}}
    retry: {max_attempts: 1}
    timeout: 5s
    for_each: [1]
    max_parallel: 9
  call: {python: 'a.b:c', input: {x: 1}}
  bare: {python: 'registered'}
  make: {transform: false}
  rest: {wait: {delay: 1m}}
"""
).definition


def test_a_step_says_what_an_attempt_works_on():
    templates = {step_id: DEFINITION.template_of(step_id) for step_id in DEFINITION.steps}
    assert templates == {
        "ask": {
            "prompt": "hi",
            "input": {"a": 1},
            "instructions": "For ${{ workflow.name }}",
            "tools": {"search": {"key": "${{ secrets.key }}"}},
        },
        "get": {"method": "GET", "url": "https://x", "json": {"a": None}},
        "call": {"x": 1},
        "bare": {},
        "make": False,
        "rest": {"delay": 60.0},
    }
    assert [step.kind for step in DEFINITION.steps.values()] == [
        "agent",
        "http",
        "python",
        "python",
        "transform",
        "wait",
    ]


def test_a_step_goes_before_the_defaults():
    assert DEFINITION.retry_of("ask").max_attempts == 5
    assert DEFINITION.retry_of("get") == NO_RETRY
    assert (DEFINITION.timeout_s_of("ask"), DEFINITION.timeout_s_of("get")) == (30.0, 5.0)
    assert (DEFINITION.max_parallel_of("ask"), DEFINITION.max_parallel_of("get")) == (4, 4)


def test_without_defaults_there_is_one_attempt():
    plain = validate("name: x\nsteps: {a: {transform: 1}}").definition
    assert plain.retry_of("a").max_attempts == 1
    assert plain.timeout_s_of("a") == STEP_TIMEOUT_DEFAULT_S


def test_a_definition_never_changes():
    with pytest.raises(ValidationError):
        DEFINITION.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("value", ["3", True, 3.5])
def test_numbers_are_not_guessed(value: object):
    with pytest.raises(ValidationError):
        WorkflowDefinition.model_validate(
            {"name": "x", "limits": {"max_parallel": value}, "steps": {"a": {"transform": 1}}}
        )
