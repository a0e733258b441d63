"""Every YAML example of the format's documentation is valid, whole definitions and pieces of them alike."""

import re
from pathlib import Path
from typing import Any

import pytest

from millrace_shared.definition.loader import load
from millrace_shared.definition.model import Step, WorkflowDefinition
from millrace_shared.definition.validation import validate

PAGE = Path(__file__).parents[3] / "docs" / "workflow-format.md"
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLES = BLOCK.findall(PAGE.read_text())


def completed(piece: dict[str, Any]) -> dict[str, Any]:
    """Put a piece where it belongs: into a step if its keys are those of steps, else into a workflow."""
    if piece.keys() <= Step.model_fields.keys():
        return {"name": "example", "steps": {"a": {"python": "package.module:function", **piece}}}
    assert piece.keys() <= WorkflowDefinition.model_fields.keys()
    return {"name": "example", "steps": {"a": {"transform": 1}}, **piece}


def title(example: str) -> str:
    return example.strip().splitlines()[-1].strip()[:40]


@pytest.mark.parametrize("example", EXAMPLES, ids=title)
def test_the_example_is_valid(example: str):
    assert validate(completed(load(example).data)).warnings == ()


def test_every_kind_and_every_rule_has_an_example():
    steps = [step for example in EXAMPLES for step in all_steps(completed(load(example).data))]
    shown = {key for step in steps for key in step}
    assert shown >= Step.model_fields.keys() - {"name", "description"}
    assert {key for step in steps for key in step.get("wait", ())} == {"delay", "until", "signal", "timeout", "default"}
    top = {key for example in EXAMPLES for key in load(example).data}
    assert top >= WorkflowDefinition.model_fields.keys() - {"description"}


def all_steps(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a definition, and of its groups and of plans that are written out."""
    found = []
    for step in data["steps"].values():
        found.append(step)
        if "group" in step:
            found += all_steps(step["group"])
    return found
