"""Agents that are saved by themselves: how they are checked, bound into definitions, and run alone.

A saved agent is an agent of a definition with a `name` of its own. It stands for itself: it reads no inputs, and the
secrets of its tools come with it wherever it is bound.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from millrace_shared.definition.errors import DefinitionError, Problem
from millrace_shared.definition.findings import Findings, mapping
from millrace_shared.definition.limits import SECRETS_MAX
from millrace_shared.definition.loader import from_data, load
from millrace_shared.definition.locations import Location
from millrace_shared.definition.model import Agent, Step, WorkflowDefinition
from millrace_shared.definition.validation import check, conclude
from millrace_shared.expressions.errors import TemplateInvalid
from millrace_shared.expressions.program import Reference
from millrace_shared.expressions.template import compile_template

_NAMELESS = "agent"
_STEP = "answer"


class BindingImpossible(DefinitionError):
    """A definition cannot have the saved agents that it uses."""


@dataclass(frozen=True, slots=True)
class ValidatedAgent:
    """A saved agent that keeps all rules, with what is allowed but probably not meant."""

    name: str
    agent: Agent
    warnings: tuple[Problem, ...]


def validate_agent(source: str | bytes | dict[str, Any]) -> ValidatedAgent:
    """Validates an agent that is to be saved by itself.

    Args:
        source: YAML or JSON text, UTF-8 bytes of it, or data that was parsed already.

    Raises:
        DefinitionInvalid: There are mistakes; has all of them in document order.
    """
    document = load(source) if isinstance(source, str | bytes) else from_data(source)
    findings = Findings()
    if not isinstance(document.data, dict):
        findings.add((), "an agent is an object", "begin with name: and model:")
        conclude(document, None, findings)
    raw = mapping(document.data)
    name = raw.get("name")
    if not isinstance(name, str):
        findings.add(("name",), "this is required" if name is None else "text is needed here", "add name: my-agent")
        name = _NAMELESS
    elif name.endswith(("-", "_")):
        findings.add(("name",), "a letter or a digit is needed at the end", f'write "{name.rstrip("-_")[:64]}"')
    agent = {key: value for key, value in raw.items() if key != "name"}
    if agent.get("use") is not None:
        hint = "write the whole agent here"
        findings.add(("use",), "an agent that is saved by itself cannot stand for another one", hint)
    found = Findings()
    data = {
        "name": _NAMELESS,
        "secrets": sorted(_secrets_in(_templates(agent))),
        "agents": {name: agent},
        "steps": {_STEP: {"transform": True}},
    }
    definition = check(data, found, inherited={name})
    for finding in found.mistakes.values():
        findings.add(_in_agent(finding.location), finding.message, finding.suggestion)
    for place, template in _templates(agent):
        if any(reference.root == "inputs" for reference in _references(template)):
            hint = "put it into the prompt or the input of the step"
            findings.add(place, "an agent that is saved by itself has no inputs to read", hint)
    validated = conclude(document, definition, findings)
    return ValidatedAgent(name, validated.definition.agents[name], validated.warnings)


def references_of(definition: WorkflowDefinition) -> dict[str, str]:
    """Returns the saved agents that a definition uses, `name` or `name@version`, by its own names for them."""
    return {name: agent.use for name, agent in definition.agents.items() if agent.use is not None}


def split_reference(reference: str) -> tuple[str, int | None]:
    """Returns the name and the version of `name@version`; None is the latest one."""
    name, _, version = reference.partition("@")
    return name, int(version) if version else None


def bind(definition: WorkflowDefinition, saved: Mapping[str, Agent]) -> WorkflowDefinition:
    """Returns a definition with saved agents in the place of what refers to them, and with the secrets of their tools.

    Args:
        definition: What was saved.
        saved: The agents, by `references_of`'s values.

    Raises:
        BindingImpossible: There would be too many secrets.
    """
    agents = {name: agent if agent.use is None else saved[agent.use] for name, agent in definition.agents.items()}
    bound = [saved[reference] for reference in references_of(definition).values()]
    added = [name for name in secrets_of(bound) if name not in definition.secrets]
    secrets = (*definition.secrets, *added)
    if len(secrets) > SECRETS_MAX:
        raise BindingImpossible(
            f"workflow {definition.name} and the agents that it uses have {len(secrets)} secrets, "
            f"and {SECRETS_MAX} are allowed: split it"
        )
    return definition.model_copy(update={"agents": agents, "secrets": secrets})


def alone(name: str, agent: Agent, *, with_input: bool) -> WorkflowDefinition:
    """Returns the definition by which an agent runs alone: `prompt`, and `input` if there is any, in; `answer` out."""
    inputs: dict[str, Any] = {"prompt": {"type": "string"}}
    step: dict[str, Any] = {"agent": name, "prompt": "${{ inputs.prompt }}"}
    if with_input:
        inputs["input"] = {}
        step["input"] = {"input": "${{ inputs.input }}"}
    return WorkflowDefinition(
        name=name,
        inputs=inputs,
        secrets=tuple(secrets_of([agent])),
        agents={name: agent},
        steps={_STEP: Step.model_validate(step)},
        outputs={_STEP: f"${{{{ steps.{_STEP}.output }}}}"},
    )


def secrets_of(agents: Iterable[Agent]) -> list[str]:
    """Returns the secrets that the settings of agents' tools hold, each once, in their order."""
    return _secrets_in((("tools",), tool.config) for agent in agents for tool in agent.tools)


def _secrets_in(templates: Iterable[tuple[Location, Any]]) -> list[str]:
    found = (reference for _, template in templates for reference in _references(template))
    return list(dict.fromkeys(str(reference.keys[0]) for reference in found if reference.root == "secrets"))


def _templates(agent: Mapping[str, Any]) -> list[tuple[Location, Any]]:
    """Returns what of an agent, as raw data, may hold expressions, with its place."""
    tools = agent.get("tools")
    listed = enumerate(tools if isinstance(tools, list) else ())
    configs: list[tuple[Location, Any]] = [
        (("tools", at, "config"), mapping(tool).get("config")) for at, tool in listed
    ]
    return [(("instructions",), agent.get("instructions")), *configs]


def _references(template: Any) -> tuple[Reference, ...]:
    try:
        return compile_template(template).references if template is not None else ()
    except TemplateInvalid:  # reported where the agent is checked
        return ()


def _in_agent(location: Location) -> Location:
    """Returns where something stands in the agent's own document, which was checked as `agents.<name>` of another."""
    if location[:1] != ("agents",):
        return ()
    return location[2:] or ("name",)
