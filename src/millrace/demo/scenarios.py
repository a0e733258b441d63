"""What the demo runs: every example, each of its branches, and how each must end."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from millrace.client.shapes import Execution
from millrace.examples import example_files
from millrace_shared.definition.loader import load

OFFLINE_MODEL = "model: offline:demo"
LOCAL_MODEL = "model: openai:demo-model"
FLAKY_MODEL = "model: openai:mock-flaky-1"
"""The local provider fails the first call with each prompt with a 500: the engine has to try again."""

TOOL_CALL = b"""
version: 1
name: tool-call
description: An agent that has to call a tool before it can answer.
agents:
  mathematician:
    model: openai:demo-model
    instructions: Use the tool.
    tools: [{name: fib, config: {call: "millrace_agent_runner.functions:fib", description: A Fibonacci number.}}]
steps:
  ask:
    agent: mathematician
    prompt: Which Fibonacci number stands at the first place that you try?
outputs:
  answer: ${{ steps.ask.output }}
"""


@dataclass(frozen=True)
class Scenario:
    """One execution, and what must come of it.

    Attributes:
        title: what it shows.
        source: the definition.
        values: the input.
        status: how the execution must end.
        steps: the statuses that these steps must end with; all others must complete.
        outputs: texts that must be in the outputs' JSON.
        events_min: how many messages of these names the live feed must bring at least.
    """

    title: str
    source: bytes
    values: Mapping[str, Any] = field(default_factory=dict)
    status: str = "completed"
    steps: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    events_min: Mapping[str, int] = field(default_factory=dict)

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return str(load(self.source).data["name"])

    def differences(self, execution: Execution, events: Mapping[str, int]) -> list[str]:
        """Return what did not come out as it must, one sentence each.

        Args:
            execution: as it ended.
            events: how many messages of each name its live feed brought.
        """
        found = []
        if execution["status"] != self.status:
            found.append(f"it ended {execution['status']}, not {self.status}: {execution['error_message']}")
        for step in execution["step_executions"]:
            wanted = self.steps.get(step["step_id"], "completed")
            if step["status"] != wanted:
                found.append(f"step {step['step_id']} is {step['status']}, not {wanted}")
        shown = json.dumps(execution["results"])
        found += [f"the outputs lack {text}: {shown}" for text in self.outputs if text not in shown]
        for event, least in self.events_min.items():
            if events.get(event, 0) < least:
                found.append(f"the live feed brought {events.get(event, 0)} {event}, not {least} or more")
        return found


def scenarios() -> list[Scenario]:
    """Return what the demo runs, in order."""
    examples = {path.stem: path.read_bytes() for path in example_files()}
    conditional = examples["conditional_workflow"]
    modes = ("fast", "standard", "thorough")
    return [
        Scenario("three steps in a row", examples["basic_sequence"], outputs=("6765",)),
        Scenario("three branches at once", examples["parallel_processing"], outputs=('"b": [2, 5, 21]',)),
        *(
            Scenario(
                f"one branch of three: {mode}",
                conditional,
                {"mode": mode},
                steps={other: "skipped" for other in modes if other != mode},
                outputs=(f'"path": "{mode}"',),
            )
            for mode in modes
        ),
        Scenario("a pipeline with checks", examples["data_pipeline"], outputs=('"valid": true',)),
        Scenario(
            "the same, and a check fails: the cleanup runs",
            _failing(examples["data_pipeline"]),
            status="failed",
            steps={"validate-transformation": "failed", "load": "skipped", "validate-load": "skipped"},
        ),
        Scenario(
            "agents in parallel, streamed",
            _with_model(examples["research_report"], LOCAL_MODEL),
            {"topic": "event-driven agents"},
            outputs=("[demo provider",),
            events_min={"llm.call": 4, "llm.token": 4},
        ),
        Scenario(
            "structured answers, from a provider that fails at first",
            _with_model(examples["lead_qualification"], FLAKY_MODEL),
            {"threshold": 0},
            outputs=('"notified": true',),
            events_min={"llm.call": 6, "step.retry_scheduled": 3},
        ),
        Scenario(
            "an agent that judges another one, three times",
            _with_model(examples["evaluator_optimizer"], LOCAL_MODEL),
            outputs=('"rounds": 3', "[demo provider"),
        ),
        Scenario("a workflow that runs another one", examples["sub_workflow"], outputs=("[55, 6765, 832040]",)),
        Scenario("loops within loops", examples["nested_for_each"], outputs=('"busy": ["north", "south"]',)),
        Scenario(
            "steps that a step has planned", examples["dynamic_plan"], outputs=("[5, 21, 233]", '"checked": true')
        ),
        Scenario(
            "a question that nobody answers, and a signal that does not come",
            examples["approval_flow"],
            steps={"archive": "skipped"},
            outputs=('"approved": true', '"channel": "blog"', '"at": "now"'),
        ),
        Scenario(
            "a security scan, judged by an agent, and told to people by another workflow",
            _with_model(examples["security_scan"], LOCAL_MODEL),
            outputs=('"secrets": 1', '"told": true'),
        ),
        Scenario(
            "licences that are not allowed, explained by an agent",
            _with_model(examples["licence_check"], LOCAL_MODEL),
            outputs=('"compliant": false', "GPL-3.0-only"),
        ),
        Scenario(
            "a review, and a patch that fits nowhere",
            _with_model(examples["code_review"], LOCAL_MODEL),
            outputs=('"diff": ""', "there is no such file"),
        ),
        Scenario(
            "a message that passes its guards",
            _with_model(examples["notify_team"], LOCAL_MODEL),
            outputs=("[demo provider",),
        ),
        Scenario(
            "an agent with a tool",
            TOOL_CALL,
            outputs=("Tools said",),
            events_min={"llm.call": 2, "llm.token": 1},
        ),
    ]


def _with_model(source: bytes, model: str) -> bytes:
    """Change the model of an example's agents, and nothing else."""
    return source.replace(OFFLINE_MODEL.encode(), model.encode())


def _failing(source: bytes) -> bytes:
    """Make the pipeline demand more records than there are, and its check refuse less."""
    definition = load(source).data
    definition["name"] = "data-pipeline-refused"
    check = definition["steps"]["validate-transformation"]
    check["input"]["min_count"] = 10_000
    check["output"]["properties"]["valid"] = {"const": True}
    return json.dumps(definition).encode()
