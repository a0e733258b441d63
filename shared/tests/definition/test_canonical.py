import json

import pytest

from millrace_shared.definition.canonical import canonical_json, content_hash
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.validation import validate

YAML = """
name: flow
description: null
inputs: {b: {type: string, default: x}, a: null}
agents: {w: {model: 'offline:demo', tools: [web.scrape, {name: search, config: {key: null}}]}}
steps:
  second: {needs: [first], timeout: 1h30m, http: {url: 'https://x', json: {z: null, a: 1}}}
  first: {transform: {deep: [null]}, retry: {max_attempts: 2}, on_error: fail, when: true}
  third: {agent: w, prompt: hi, python: null}
  team: {group: {steps: {x: {needs: null, wait: {signal: s, default: null}}}, outputs: {}}, input: {k: null}}
  bill: {workflow: billing, repeat: {until: true, max: 10}}
  ok: {approval: {message: Go?, deadline: 24h}, on_error: null}
singleton: true
throttle: {limit: 3, per: 1m, on_limit: queue}
"""
JSON = json.dumps(
    {
        "steps": {
            "third": {"prompt": "hi", "agent": "w", "run": "default"},
            "second": {
                "http": {"json": {"a": 1, "z": None}, "url": "https://x", "method": "GET"},
                "timeout": 5400,
                "needs": ["first"],
            },
            "ok": {"approval": {"default": "fail", "deadline": 86400, "message": "Go?"}},
            "bill": {"repeat": {"on_max": "complete", "until": "true", "delay": "0s"}, "workflow": {"name": "billing"}},
            "team": {
                "input": {"k": None},
                "group": {"steps": {"x": {"wait": {"default": None, "signal": "s"}}}},
            },
            "first": {"when": "true", "transform": {"deep": [None]}, "retry": {"jitter": True, "max_attempts": 2}},
        },
        "agents": {
            "w": {
                "tools": [{"name": "web.scrape"}, {"config": {"key": None}, "name": "search"}],
                "model": "offline:demo",
            }
        },
        "singleton": {"key": None},
        "throttle": {"per": 60, "limit": 3},
        "version": 1,
        "inputs": {"a": {}, "b": {"default": "x", "type": "string"}},
        "name": "flow",
    }
)


def canonical(source: str) -> bytes:
    return canonical_json(validate(source).definition)


def test_the_same_meaning_has_the_same_hash():
    assert canonical(YAML) != canonical(JSON)  # the authors order their steps differently
    assert content_hash(canonical(YAML)) == content_hash(canonical(JSON))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("hi", "ho"),
        ("1h30m", "1h31m"),
        ("deep: [null]", "deep: []"),
        ("z: null, ", ""),
        ("'https://x'", "'https://y'"),
        (", default: null", ""),
        ("default: null", "default: 0"),
        ("max: 10", "max: 9"),
        ("singleton: true", "singleton: false"),
        ("workflow: billing", "workflow: {name: billing, version: 1}"),
    ],
)
def test_another_meaning_has_another_hash(old: str, new: str):
    assert content_hash(canonical(YAML)) != content_hash(canonical(YAML.replace(old, new)))


def test_reads_back_as_the_same_definition_in_the_same_order():
    definition = validate(YAML).definition
    again = WorkflowDefinition.model_validate(json.loads(canonical_json(definition)))
    assert again == definition
    assert again.step_order == ("second", "first", "third", "team", "bill", "ok")
    assert WorkflowDefinition.model_validate_json(canonical_json(definition)) == definition
    assert validate(canonical_json(definition)).definition == definition


def test_nothing_is_written_that_equals_its_default():
    assert canonical("name: x\nsteps: {a: {transform: 1, run: default, retry: null}}") == (
        b'{"version":1,"name":"x","steps":{"a":{"transform":1}}}'
    )
