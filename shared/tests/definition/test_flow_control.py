"""Mistakes in the rules of flow control, each with its message."""

import pytest
from definitions import mistakes

REST = """
name: flow
inputs: {topic: {type: string}}
secrets: [token]
agents: {writer: {model: 'offline:demo', instructions: 'On ${{ inputs.topic }}'}}
steps:
"""


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("concurrency: 3", "concurrency: an object is needed here, and this is a number"),
        ("concurrency: {}", "concurrency.limit: this is required; add limit: 1"),
        ("concurrency: {limit: 0}", "concurrency.limit: this must be at least 1"),
        (
            "concurrency: {limit: 1, on_limit: wait}",
            'concurrency.on_limit: "wait" is not one of queue, drop, cancel_oldest',
        ),
        (
            "concurrency: {limit: 1, key: '${{ execution.id }}'}",
            (
                "concurrency.key: in `execution.id`: `execution` cannot be read here: before an execution begins there "
                "are only its inputs"
            ),
        ),
        (
            "throttle: {limit: 1, per: 1m, on_limit: cancel_oldest}",
            'throttle.on_limit: "cancel_oldest" is not one of queue, drop',
        ),
        ("throttle: {limit: 1}", "throttle.per: this is required; add per: 1m"),
        ("debounce: {}", "debounce.delay: this is required; add delay: 30s"),
        ("singleton: 3", "singleton: true or an object is needed here, and this is a number"),
        (
            "singleton: {key: '${{ steps.a.output }}'}",
            (
                "singleton.key: in `steps.a.output`: `steps` cannot be read here: before an execution begins there are "
                "only its inputs"
            ),
        ),
        (
            "singleton: {key: '${{ inputs.x }}'}",
            'singleton.key: in `inputs.x`: there is no input "x"; declare it under inputs',
        ),
        (
            "{concurrency: {limit: 1}, singleton: true}",
            "singleton: a singleton is a concurrency of 1, and concurrency is given, too; remove one of them",
        ),
    ],
)
def test_names_the_mistake_in_flow_control(rest: str, expected: str):
    lines = rest.strip("{}").replace("}, s", "}\ns") if rest.startswith("{") else rest
    assert mistakes(f"name: flow\n{lines}\nsteps: {{a: {{transform: 1}}}}") == [expected]


def test_flow_control_is_for_workflows_and_not_for_steps():
    assert mistakes(REST + "  a: {transform: 1, concurrency: {limit: 1}}") == [
        "steps.a.concurrency: concurrency belongs to the workflow as a whole; a step has max_parallel"
    ]
