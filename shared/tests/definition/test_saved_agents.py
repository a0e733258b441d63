"""Agents: their spellings, their rules, and those that are saved by themselves."""

from typing import Any

import pytest

from millrace_shared.definition.agents import Agent
from millrace_shared.definition.canonical import canonical_agent, canonical_json, content_hash
from millrace_shared.definition.errors import DefinitionInvalid
from millrace_shared.definition.limits import SECRETS_MAX
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.plans import validate_plan
from millrace_shared.definition.saved_agents import (
    BindingImpossible,
    alone,
    bind,
    references_of,
    split_reference,
    validate_agent,
)
from millrace_shared.definition.validation import validate

MODEL = "offline:demo"


def definition(agent: Any, **rest: Any) -> WorkflowDefinition:
    step = {"agent": "helper", "prompt": "hello"}
    return validate({"name": "asks", "agents": {"helper": agent}, "steps": {"ask": step}, **rest}).definition


def problems(agent: Any) -> list[tuple[str, str, str | None]]:
    with pytest.raises(DefinitionInvalid) as refused:
        definition(agent)
    return [(one.path, one.message, one.suggestion) for one in refused.value.problems]


def mistakes(document: Any) -> list[tuple[str, str]]:
    with pytest.raises(DefinitionInvalid) as refused:
        validate_agent(document)
    return [(one.path, one.message) for one in refused.value.problems]


def test_other_words_for_the_same_agent_are_the_same_definition() -> None:
    own = {"model": MODEL, "limits": {"max_iterations": 3, "total_tokens": 100}}
    other = {
        "agent_type": "react",
        "llm_provider": "offline",
        "llm_model": "demo",
        "max_iterations": 3,
        "limits": {"total_tokens": 100},
        "streaming_enabled": True,
        "model": None,
    }
    assert definition(own) == definition(other)
    assert canonical_json(definition(own)) == canonical_json(definition(other))


def test_words_that_contradict_each_other_are_refused() -> None:
    found = problems({"model": MODEL, "llm_model": "demo", "max_iterations": 3, "limits": {"max_iterations": 4}})
    assert {place for place, _, _ in found} == {"agents.helper.llm_model", "agents.helper.max_iterations"}
    found = problems({"llm_model": "demo"})
    assert ("agents.helper.model", "this is required", "llm_provider and llm_model go together") in found
    assert [place for place, _, _ in problems({"model": MODEL, "agent_type": "planner"})] == [
        "agents.helper.agent_type"
    ]


def test_an_unknown_provider_is_refused_wherever_a_model_is_named() -> None:
    judge = {"judge": {"question": "Is it kind?", "model": "opanai:gpt-5-nano"}}
    found = problems({"model": "grok:llama", "fallback_models": ["mistal:x"], "guards": {"output": [judge]}})
    assert found == [
        ("agents.helper.model", 'there is no model provider "grok"', 'did you mean "groq"?'),
        ("agents.helper.fallback_models[0]", 'there is no model provider "mistal"', 'did you mean "mistral"?'),
        ("agents.helper.guards.output[0].judge.model", 'there is no model provider "opanai"', 'did you mean "openai"?'),
    ]
    [(place, _, hint)] = problems({"llm_provider": "zzz", "llm_model": "x"})
    assert place == "agents.helper.llm_provider"
    assert hint is not None
    assert "offline" in hint


def test_a_tool_is_refused_that_can_only_be_a_slip() -> None:
    found = problems({"model": MODEL, "tools": ["http.gett", {"name": "web.find"}]})
    assert found == [
        ("agents.helper.tools[0]", 'there is no tool "http.gett"', 'did you mean "http.get"?'),
        ("agents.helper.tools[1].name", 'there is no tool "web.find"', found[1][2]),
    ]
    allowed = ["human.ask", "fib", "acme.lookup", {"name": "http.own", "config": {"call": "a.b:c"}}]
    assert len(definition({"model": MODEL, "tools": allowed}).agents["helper"].tools) == 4


def test_an_agent_that_is_used_has_nothing_of_its_own() -> None:
    assert definition({"use": "researcher@2", "description": "Looks things up."}).agents["helper"].model is None
    [(place, _, _)] = problems({"use": "researcher", "temperature": 0.5})
    assert place == "agents.helper.temperature"
    for wrong in ("Researcher", "researcher@", "researcher@0", "researcher@x", "a@1@2"):
        assert [place for place, _, _ in problems({"use": wrong})] == ["agents.helper.use"]


def test_a_plan_cannot_use_saved_agents() -> None:
    plan = {"agents": {"a": {"use": "researcher"}}, "steps": {"ask": {"agent": "a", "prompt": "hello"}}}
    with pytest.raises(DefinitionInvalid, match=r"agents\.a\.use: a plan cannot use"):
        validate_plan(plan, agents={}, secrets=())


def test_binding_puts_the_agents_in_place_with_the_secrets_of_their_tools() -> None:
    tool = {"name": "http.get", "config": {"hosts": ["a.test"], "headers": {"X": "${{ secrets.token }}"}}}
    saved = validate_agent({"name": "researcher", "model": MODEL, "tools": [tool]}).agent
    used = definition({"use": "researcher@2"}, secrets=["mine"])
    assert references_of(used) == {"helper": "researcher@2"}
    assert split_reference("researcher@2") == ("researcher", 2)
    assert split_reference("researcher") == ("researcher", None)
    bound = bind(used, {"researcher@2": saved})
    assert bound.agents == {"helper": saved}
    assert bound.secrets == ("mine", "token")
    assert references_of(bound) == {}
    assert validate(bound.model_dump(mode="json", by_alias=True, exclude_defaults=True)).definition == bound
    assert WorkflowDefinition.model_validate_json(canonical_json(bound)) == bound


def test_binding_keeps_to_the_limit_of_secrets() -> None:
    names = [f"s{number}" for number in range(SECRETS_MAX)]
    config = {"headers": {"X": "${{ secrets.another }}"}}
    saved = validate_agent({"name": "r", "model": MODEL, "tools": [{"name": "http.get", "config": config}]}).agent
    with pytest.raises(BindingImpossible, match="101 secrets"):
        bind(definition({"use": "r"}, secrets=names), {"r": saved})


@pytest.mark.parametrize("with_input", [False, True])
def test_an_agent_alone_is_a_definition_that_keeps_all_rules(with_input: bool) -> None:
    tool = {"name": "http.get", "config": {"hosts": ["a.test"], "headers": {"X": "${{ secrets.token }}"}}}
    document = {"name": "researcher", "model": MODEL, "tools": [tool], "instructions": "In ${{ workflow.name }}."}
    made = alone("researcher", validate_agent(document).agent, with_input=with_input)
    stored = canonical_json(made)
    assert validate(stored).definition == made
    assert set(made.inputs) == ({"prompt", "input"} if with_input else {"prompt"})


def test_every_mistake_of_a_saved_agent_is_told_with_its_place() -> None:
    assert mistakes({"name": "Helper", "model": MODEL})[0][0] == "name"
    assert mistakes({"name": "helper-", "model": MODEL})[0][0] == "name"
    assert mistakes({"model": MODEL}) == [("name", "this is required")]
    assert mistakes({"name": 7, "model": MODEL}) == [("name", "text is needed here")]
    assert mistakes([]) == [("", "an agent is an object")]
    assert mistakes({"name": "a", "use": "b"})[0][0] == "use"
    assert mistakes({"name": "a", "model": MODEL, "tempreture": 1})[0][0] == "tempreture"
    assert mistakes({"name": "a", "model": MODEL, "output": {"type": "objekt"}})[0][0] == "output.type"
    reading = {"name": "a", "model": MODEL, "instructions": "About ${{ inputs.topic }}, ${{ steps.x.output }}."}
    assert {place for place, _ in mistakes(reading)} == {"instructions"}
    assert any("has no inputs" in message for _, message in mistakes(reading))


def test_mistakes_of_a_saved_agent_have_lines() -> None:
    with pytest.raises(DefinitionInvalid) as refused:
        validate_agent("name: helper\nmodel: grok:x\nguards:\n  output:\n    - {regex: '('}\n")
    assert [(one.path, one.line) for one in refused.value.problems] == [("model", 2), ("guards.output[0].regex", 5)]


def test_a_saved_agent_has_one_hash_however_it_is_written() -> None:
    one = validate_agent("name: helper\nmodel: offline:demo\ntimeout: 1m\n")
    other = validate_agent('{"timeout": 60, "llm_provider": "offline", "llm_model": "demo", "name": "helper"}')
    hashes = {content_hash(canonical_agent(made.name, made.agent)) for made in (one, other)}
    assert len(hashes) == 1
    stored = canonical_agent(one.name, one.agent)
    assert b'"timeout":60.0' in stored
    assert Agent.model_validate({"model": "offline:demo", "timeout": 60}) == one.agent
