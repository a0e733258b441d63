from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_shared.definition.canonical import canonical_json
from millrace_shared.definition.errors import DefinitionInvalid
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.plans import validate_plan
from millrace_shared.definition.validation import validate

AROUND = validate(
    """
name: around
inputs: {topic: {type: string}}
secrets: [token, other]
limits: {timeout: 2h, max_parallel: 3}
defaults: {timeout: 20s}
agents:
  writer: {model: 'offline:demo', instructions: 'On ${{ inputs.topic }}'}
  caller: {model: 'offline:demo', tools: [{name: call, config: {key: '${{ secrets.token }}'}}]}
steps: {a: {transform: 1}}
"""
).definition
STEPS = {"a": {"transform": 1}}


def planned(document: Any, **given_: Any) -> WorkflowDefinition:
    return validate_plan(document, agents=AROUND.agents, secrets=AROUND.secrets, **given_).definition


def mistakes(document: Any, **given_: Any) -> list[str]:
    with pytest.raises(DefinitionInvalid) as caught:
        planned(document, **given_)
    return [str(problem) for problem in caught.value.problems]


def test_steps_alone_are_a_plan():
    plan = planned({"steps": {"a": {"transform": 1}, "b": {"needs": ["a"], "transform": "${{ steps.a.output }}"}}})
    assert plan.name == "plan"
    assert plan.outputs == {"b": "${{ steps.b.output }}"}
    assert set(plan.agents) == {"writer", "caller"}
    assert plan.secrets == ("token",)  # that of an agent's tool; the other one is not asked for


def test_what_the_plan_says_goes_before_what_is_around_it():
    plan = planned(
        {
            "name": "mine",
            "agents": {"writer": {"model": "offline:other"}},
            "secrets": ["other"],
            "limits": {"max_parallel": 1},
            "inputs": {"n": {"type": "integer"}},
            "outputs": {"r": 1},
            "steps": STEPS,
        },
        inputs=("n", "m"),
        limits=AROUND.limits,
        defaults=AROUND.defaults,
    )
    assert (plan.name, plan.agents["writer"].model, plan.outputs) == ("mine", "offline:other", {"r": 1})
    assert plan.secrets == ("other", "token")
    assert (plan.limits.max_parallel, plan.limits.timeout) == (1, 7200.0)
    assert plan.timeout_s_of("a") == 20.0
    assert plan.inputs == {"n": {"type": "integer"}, "m": {}}


def test_null_is_absent():
    nothing = dict.fromkeys(WorkflowDefinition.model_fields.keys() - {"steps"})
    assert planned({**nothing, "steps": STEPS}) == planned({"steps": STEPS})


def test_a_plan_stands_for_itself():
    plan = planned({"steps": {"a": {"agent": "caller", "prompt": "${{ inputs.n }}"}}}, inputs=("n",))
    assert validate(canonical_json(plan.model_copy(update={"agents": {"caller": plan.agents["caller"]}})))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            "steps: {}",
            (
                "a plan is an object with steps, and this is a string; "
                "give the step that makes it an output schema of type object"
            ),
        ),
        (
            None,
            (
                "a plan is an object with steps, and this is null; "
                "give the step that makes it an output schema of type object"
            ),
        ),
        ({}, "steps: this is required; add steps:"),
        ({"steps": []}, "steps: an object is needed here, and this is a list"),
        ({"steps": STEPS, "name": "My Plan"}, "name: "),
        ({"steps": {"a": {"needs": ["b"], "transform": 1}}}, 'steps.a.needs[0]: there is no step "b"'),
        (
            {"steps": {"a": {"agent": "writter", "prompt": "x"}}},
            'steps.a.agent: there is no agent "writter"; did you mean "writer"?',
        ),
        (
            {"steps": {"a": {"agent": "writer", "prompt": "x"}}},
            (
                "steps.a.agent: in `inputs.topic` in the instructions of writer: "
                'there is no input "topic"; declare it under inputs'
            ),
        ),
        (
            {"steps": {"a": {"transform": "${{ inputs.n }}"}}},
            'steps.a.transform: in `inputs.n`: there is no input "n"; declare it under inputs',
        ),
        (
            {"steps": STEPS, "secrets": ["tokn"]},
            'secrets[0]: the workflow around the plan has no secret "tokn"; did you mean "token"?',
        ),
        (
            {"steps": {"a": {"http": {"url": "https://x/${{ secrets.other }}"}}}},
            'steps.a.http.url: in `secrets.other`: the secret "other" is not declared; add it to secrets: [other]',
        ),
        (
            {"steps": STEPS, "concurrency": {"limit": 1}},
            "concurrency: a plan has no concurrency, which is for workflows that are started; remove it",
        ),
        (
            {"steps": STEPS, "singleton": True},
            "singleton: a plan has no singleton, which is for workflows that are started; remove it",
        ),
        (
            {"steps": {f"s{number}": {"transform": 1} for number in range(501)}, "outputs": {"x": 1}},
            "steps: the plan has 501 steps, those of groups included, and 500 are allowed; make several plans of it",
        ),
        (
            {"steps": {f"s{number}": {"transform": 1} for number in range(201)}},
            "outputs: without outputs its 201 last steps would be the output, and 200 are allowed; name its outputs",
        ),
        ({"steps": {"a": {"transform": float("inf")}}}, "steps.a.transform: this is not a finite number"),
    ],
)
def test_names_the_mistake(document: Any, expected: str):
    (found,) = mistakes(document)
    assert found.startswith(expected)


def test_steps_of_groups_count():
    group = {"group": {"steps": {f"s{number}": {"transform": 1} for number in range(250)}, "outputs": {"x": 1}}}
    assert mistakes({"steps": {"a": group, "b": group}}) == [
        "steps: the plan has 502 steps, those of groups included, and 500 are allowed; make several plans of it"
    ]


def test_all_mistakes_are_told_in_the_order_of_the_plan():
    document = {
        "steps": {"a": {"transform": "${{ inputs.x }}"}, "b": {}},
        "secrets": ["nope"],
        "throttle": {"limit": 1, "per": 1},
    }
    with pytest.raises(DefinitionInvalid) as caught:
        planned(document)
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["steps.a.transform", "steps.b", "secrets[0]", "throttle"]


def test_a_plan_runs_workflows_that_are_at_hand():
    document = {"steps": {"a": {"group": {"steps": {"b": {"workflow": {"name": "billing", "version": 3}}}}}}}
    planned(document)
    planned(document, uses={"billing@3"})
    assert mistakes(document, uses={"billing"}) == [
        (
            'steps.a.group.steps.b.workflow: the workflow around the plan does not use the workflow "billing@3"; '
            'did you mean "billing"?'
        )
    ]


def test_an_agent_that_nobody_asks_is_no_mistake():
    # The instructions of writer read an input that the plan does not have.
    assert "writer" in planned({"steps": STEPS}).agents


def test_what_an_agent_reads_can_be_given():
    step = {"agent": "writer", "prompt": "x"}
    planned({"steps": {"a": step}}, inputs=("topic",))
    planned({"steps": {"a": {"input": {"topic": 1}, "group": {"steps": {"b": step}}}}})
    assert mistakes({"steps": {"a": {"group": {"steps": {"b": step}}}}}, inputs=("topic",)) == [
        (
            "steps.a.group.steps.b.agent: in `inputs.topic` in the instructions of writer: "
            'the group "a" has no input "topic"; add it to the input of a'
        )
    ]


def test_the_document_is_left_as_it_was():
    document: dict[str, Any] = {"steps": {"a": {"transform": 1}}, "secrets": ["other"]}
    planned(document, inputs=("n",))
    assert document == {"steps": {"a": {"transform": 1}}, "secrets": ["other"]}


words = st.sampled_from(
    [
        *("steps", "inputs", "outputs", "agents", "secrets", "limits", "defaults", "singleton", "name", "writer"),
        *("a", "b", "needs", "transform", "group", "workflow", "plan", "agent", "prompt", "token", "timeout"),
        *("${{ inputs.n }}", "${{ steps.a.output }}", "${{ secrets.token }}"),
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)
likely = st.fixed_dictionaries(
    {"steps": st.dictionaries(words, st.dictionaries(words, anything, max_size=3), max_size=3)},
    optional=dict.fromkeys(("inputs", "outputs", "agents", "secrets", "limits", "defaults", "name"), anything),
)


@settings(max_examples=300)
@given(anything | likely)
def test_whatever_a_model_makes_is_a_plan_or_has_problems(document: Any):
    try:
        plan = planned(document, inputs=("n",), limits=AROUND.limits, defaults=AROUND.defaults, uses=("a",))
    except DefinitionInvalid as error:
        plan, problems = None, error.problems
    if plan is None:
        assert problems
        return
    assert set(plan.secrets) <= set(AROUND.secrets)
    assert plan.outputs
    assert WorkflowDefinition.model_validate_json(canonical_json(plan)) == plan
