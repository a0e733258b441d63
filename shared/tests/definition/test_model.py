import pytest
from pydantic import ValidationError

from millrace_shared.definition.canonical import canonical_json
from millrace_shared.definition.limits import STEP_TIMEOUT_DEFAULT_S
from millrace_shared.definition.model import (
    NO_RETRY,
    Cache,
    Concurrency,
    Debounce,
    Repeat,
    Singleton,
    Throttle,
    WorkflowDefinition,
)
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
  paid: {wait: {signal: payment, timeout: 10m, default: null}}
  told: {wait: {signal: payment}}
  ok: {approval: {message: 'Go?', deadline: 30m}, retry: {max_attempts: 3}}
  bill: {workflow: billing, input: {n: 1}, timeout: 2m}
  bill3: {workflow: {name: billing, version: 3}, retry: {max_attempts: 2}}
  team: {input: {t: '${{ inputs }}'}, group: {steps: {a: {transform: 1}}}}
  made: {plan: '${{ steps.call.output }}', needs: [call]}
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
        "paid": {"signal": "payment", "timeout": 600.0},
        "told": {"signal": "payment"},
        "ok": {"message": "Go?"},
        "bill": {"n": 1},
        "bill3": {},
        "team": {"t": "${{ inputs }}"},
        "made": {"plan": "${{ steps.call.output }}", "input": {}},
    }
    assert [step.kind for step in DEFINITION.steps.values()] == [
        "agent",
        "http",
        "python",
        "python",
        "transform",
        "wait",
        "wait",
        "wait",
        "approval",
        "workflow",
        "workflow",
        "group",
        "plan",
    ]


def test_a_default_of_null_is_a_default():
    paid, told = (DEFINITION.steps[step_id].wait for step_id in ("paid", "told"))
    assert paid is not None
    assert told is not None
    assert (paid.has_default, paid.default, told.has_default) == (True, None, False)
    again = WorkflowDefinition.model_validate_json(canonical_json(DEFINITION))
    assert again == DEFINITION
    null_without_signal = validate("name: x\nsteps: {a: {wait: {delay: 1s, default: null}}}").definition
    assert canonical_json(null_without_signal) == b'{"version":1,"name":"x","steps":{"a":{"wait":{"delay":1.0}}}}'


def test_what_waits_or_runs_steps_of_its_own_lasts_as_long_as_the_execution():
    limit_s = DEFINITION.limits.timeout
    times = {step_id: DEFINITION.timeout_s_of(step_id) for step_id in ("rest", "paid", "told", "ok", "bill", "team")}
    assert times == {"rest": limit_s, "paid": 600.0, "told": limit_s, "ok": 1800.0, "bill": 120.0, "team": limit_s}


def test_what_runs_steps_of_its_own_is_retried_only_if_it_says_so():
    attempts = {step_id: DEFINITION.retry_of(step_id).max_attempts for step_id in DEFINITION.steps}
    assert attempts["ask"] == attempts["make"] == 5
    assert attempts["bill3"] == 2
    assert {attempts[step_id] for step_id in ("rest", "paid", "ok", "bill", "team", "made")} == {1}


def test_a_workflow_is_named_with_its_version():
    calls = [DEFINITION.steps[step_id].workflow for step_id in ("bill", "bill3")]
    assert [call.key for call in calls if call is not None] == ["billing", "billing@3"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("repeat: {until: output.ok}", Repeat(until="output.ok", max=10, on_max="complete", delay=0)),
        ("repeat: {until: true}", Repeat(until="true")),
        ("cache: {ttl: 1h}", Cache(ttl=3600)),
    ],
)
def test_rules_of_a_step_have_defaults(source: str, expected: Repeat | Cache):
    step = validate(f"name: x\nsteps: {{a: {{python: f, {source}}}}}").definition.steps["a"]
    assert expected in (step.repeat, step.cache)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("concurrency: {limit: 2}", Concurrency(limit=2, on_limit="queue", key=None)),
        ("throttle: {limit: 10, per: 1m}", Throttle(limit=10, per=60, on_limit="queue")),
        ("debounce: {delay: 30s}", Debounce(delay=30)),
        ("singleton: true", Singleton()),
        ("singleton: {}", Singleton()),
    ],
)
def test_flow_control_has_defaults(source: str, expected: object):
    definition = validate(f"name: x\n{source}\nsteps: {{a: {{transform: 1}}}}").definition
    assert expected in (definition.concurrency, definition.throttle, definition.debounce, definition.singleton)
    assert validate("name: x\nsingleton: false\nsteps: {a: {transform: 1}}").definition.singleton is None


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
