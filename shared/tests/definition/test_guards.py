"""Guards of agents: what is accepted, and what is wrong with what is not."""

from typing import Any

import pytest
from definitions import mistakes

from millrace_shared.definition.validation import validate


def flow(**guards: Any) -> dict[str, Any]:
    return {
        "name": "flow",
        "agents": {"writer": {"model": "offline:demo", "guards": guards}},
        "steps": {"write": {"agent": "writer", "prompt": "Write."}},
    }


def test_each_check_and_each_action_is_accepted() -> None:
    definition = validate(
        flow(
            input=[{"max_length": 1000}, {"name": "no-cards", "regex": r"\b\d{16}\b", "action": "flag"}],
            output=[
                {"json_schema": {"type": "object"}, "action": "retry"},
                {"regex": "^Dear", "expect": "present"},
                {"judge": {"question": "Is it polite?", "model": "openai:m-1", "min_score": 0.8}},
            ],
        )
    ).definition
    guards = definition.agents["writer"].guards
    assert guards is not None
    assert [guard.action for guard in (*guards.input, *guards.output)] == ["block", "flag", "retry", "block", "block"]
    assert guards.output[2].judge is not None
    assert guards.output[2].judge.min_score == 0.8


@pytest.mark.parametrize(
    ("guards", "words"),
    [
        ({"input": [{}]}, "a guard checks one thing, and this one 0"),
        ({"output": [{"max_length": 1, "regex": "a"}]}, "a guard checks one thing, and this one 2"),
        ({"input": [{"max_length": 1, "action": "retry"}]}, "a prompt cannot be tried again"),
        ({"output": [{"regex": "(a"}]}, "no regular expression"),
        ({"output": [{"regex": "(?=a)"}]}, "without look-around"),
        ({"output": [{"json_schema": {"type": "thing"}}]}, "json_schema"),
        ({"output": [{"max_length": 1, "expect": "present"}]}, "only a guard with a regex"),
        ({"output": [{"regex": "a"}, {"regex": "b"}]}, 'two guards of the output are called "regex"'),
        ({"output": [{"max_length": 0}]}, "max_length"),
        ({"output": [{"judge": {}}]}, "question"),
        ({"output": [{"judge": {"question": "ok?", "min_score": 2}}]}, "min_score"),
        ({"output": [{"max_length": 1, "action": "shout"}]}, "action"),
        ({"between": []}, "between"),
    ],
)
def test_what_is_wrong_is_said(guards: dict[str, Any], words: str) -> None:
    assert any(words in mistake for mistake in mistakes(flow(**guards)))
