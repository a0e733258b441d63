from pathlib import Path

import pytest

from millrace_shared.definition.inputs import complete_input
from millrace_shared.definition.validation import validate

EXAMPLES = Path(__file__).parents[3] / "examples" / "workflows"
NAMES = [
    "approval_flow",
    "basic_sequence",
    "code_review",
    "conditional_workflow",
    "data_pipeline",
    "dynamic_plan",
    "evaluator_optimizer",
    "lead_qualification",
    "licence_check",
    "nested_for_each",
    "notify_team",
    "parallel_processing",
    "research_report",
    "security_scan",
    "sub_workflow",
]


def test_every_example_is_listed():
    assert sorted(path.stem for path in EXAMPLES.glob("*")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_is_valid_without_warnings_and_runs_without_input(name: str):
    validated = validate((EXAMPLES / f"{name}.yaml").read_bytes())
    assert validated.warnings == ()
    assert validated.definition.name == name.replace("_", "-")
    assert set(complete_input(validated.definition, {})) == set(validated.definition.inputs)
    assert {agent.model for agent in validated.definition.agents.values()} <= {"offline:demo"}
