"""The demo itself: what it runs, and that it notices when something ends other than it must."""

import subprocess
import sys
from typing import Any, cast

import pytest

from millrace.client.shapes import Execution
from millrace.demo.scenarios import Scenario, scenarios
from millrace.examples import example_files
from millrace_shared.definition.loader import load
from millrace_shared.definition.validation import validate

TIMEOUT_S = 180


def ended(status: str = "completed", steps: dict[str, str] | None = None, results: Any = None) -> Execution:
    rows = [
        {"step_id": step, "status": became, "retry_count": 0} for step, became in (steps or {"a": "completed"}).items()
    ]
    return cast(
        "Execution", {"status": status, "error_message": None, "step_executions": rows, "results": results or {}}
    )


def test_it_runs_every_example_and_every_branch():
    chosen = scenarios()
    assert {load(path.read_bytes()).data["name"] for path in example_files()} <= {one.workflow for one in chosen}
    modes = {one.values["mode"] for one in chosen if one.workflow == "conditional-workflow"}
    assert modes == {"fast", "standard", "thorough"}
    assert [one.status for one in chosen if one.workflow == "data-pipeline-refused"] == ["failed"]


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.title)
def test_its_definitions_are_valid_and_no_agent_is_offline(scenario: Scenario):
    definition = validate(scenario.source).definition
    assert {agent.model.partition(":")[0] for agent in definition.agents.values()} <= {"openai"}


def test_the_model_is_all_that_changes_in_an_example():
    examples = {load(path.read_bytes()).data["name"]: load(path.read_bytes()).data for path in example_files()}
    for scenario in scenarios():
        changed = load(scenario.source).data
        if "agents" not in changed or scenario.workflow not in examples:
            continue
        for agent in changed["agents"].values():
            agent["model"] = "offline:demo"
        assert changed == examples[scenario.workflow]


def test_what_is_as_it_must_be_is_not_reported():
    scenario = Scenario("", b"", steps={"b": "skipped"}, outputs=("42",), events_min={"llm.call": 1})
    execution = ended(steps={"a": "completed", "b": "skipped"}, results={"n": 42})
    assert scenario.differences(execution, {"llm.call": 2}) == []


@pytest.mark.parametrize(
    ("scenario", "execution", "reported"),
    [
        (Scenario("", b""), ended("failed"), "it ended failed, not completed: None"),
        (Scenario("", b"", status="failed"), ended(), "it ended completed, not failed: None"),
        (Scenario("", b""), ended(steps={"a": "skipped"}), "step a is skipped, not completed"),
        (Scenario("", b"", steps={"a": "failed"}), ended(), "step a is completed, not failed"),
        (Scenario("", b"", outputs=("42",)), ended(results={"n": 4}), 'the outputs lack 42: {"n": 4}'),
        (Scenario("", b"", events_min={"llm.token": 1}), ended(), "the live feed brought 0 llm.token, not 1 or more"),
    ],
)
def test_what_is_not_is_reported(scenario: Scenario, execution: Execution, reported: str):
    assert scenario.differences(execution, {}) == [reported]


@pytest.mark.slow
def test_the_demo_ends_as_it_must():
    ran = subprocess.run(
        [sys.executable, "-m", "millrace.demo"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"All {len(scenarios())} ended as they must" in ran.stdout
    assert "Traceback" not in ran.stderr
