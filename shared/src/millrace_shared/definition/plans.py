"""Plans: definitions that a running execution makes for itself, an agent's as a rule.

A plan is validated like anything that a person wrote, and more strictly: it may use what the workflow around it has
declared, and nothing else. It comes from a model, so every message is one that a model can act upon.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from millrace_shared.definition.errors import DefinitionInvalid, Problem
from millrace_shared.definition.findings import Findings, mapping, texts
from millrace_shared.definition.flow import FLOW_CONTROL_KEYS
from millrace_shared.definition.levels import levels_of
from millrace_shared.definition.limits import PLAN_STEPS_MAX
from millrace_shared.definition.loader import from_data
from millrace_shared.definition.locations import Location
from millrace_shared.definition.model import Agent, Defaults, Limits
from millrace_shared.definition.parts import sink_outputs
from millrace_shared.definition.rules import check_sinks
from millrace_shared.definition.saved_agents import secrets_of
from millrace_shared.definition.validation import Validated, check, conclude
from millrace_shared.expressions.paths import type_name
from millrace_shared.expressions.suggest import did_you_mean

PLAN_NAME = "plan"
"""Name of a plan that has none."""


def validate_plan(
    document: Any,
    *,
    agents: Mapping[str, Agent],
    secrets: Collection[str],
    inputs: Iterable[str] = (),
    limits: Limits | None = None,
    defaults: Defaults | None = None,
    uses: Collection[str] | None = None,
) -> Validated:
    """Validates a plan, and completes it with what the workflow around it has.

    Pure, and bounded by the size of a document and `PLAN_STEPS_MAX` steps.

    Args:
        document: What a step made: an object with `steps`, and with `inputs`, `outputs`, `agents` and so on as it
            likes. Without `outputs` those of its last steps are the result.
        agents: The agents of the workflow around it; an agent of the plan goes before one with the same name.
        secrets: The secrets of the workflow around it; the plan may declare these.
        inputs: Names of the values that the plan is given; each is an input of any type, unless the plan declares it.
        limits: Limits of the workflow around it, for what the plan does not bound itself.
        defaults: Defaults of the workflow around it, for what the plan does not say itself.
        uses: Workflows that are at hand, by `WorkflowCall.key`; None: any, as far as this function is concerned.

    Returns:
        The plan as a definition that stands for itself. Places in warnings are those of the plan.

    Raises:
        DefinitionInvalid: It is not a plan, or has mistakes; has all of them.
    """
    if not isinstance(document, dict):
        problem = f"a plan is an object with steps, and this is {type_name(document)}"
        hint = "give the step that makes it an output schema of type object"
        raise DefinitionInvalid([Problem("", problem, suggestion=hint)])
    source = from_data(document)
    findings = Findings()
    plan = {key: value for key, value in document.items() if value is not None}
    _check_plan(plan, secrets, uses, findings)
    own_agents = mapping(plan.get("agents"))
    inherited = {name: agent for name, agent in agents.items() if name not in own_agents}
    data = {
        **plan,
        "name": plan.get("name", PLAN_NAME),
        "inputs": _merged({name: {} for name in inputs}, plan.get("inputs")),
        "agents": _merged({name: _dumped(agent) for name, agent in inherited.items()}, plan.get("agents")),
        "secrets": _with_secrets_of(inherited.values(), plan.get("secrets")),
        "limits": _merged(_dumped(limits), plan.get("limits")),
        "defaults": _merged(_dumped(defaults), plan.get("defaults")),
    }
    definition = check(data, findings, inherited=inherited)
    validated = conclude(source, definition, findings)
    if validated.definition.outputs:
        return validated
    outputs = sink_outputs(validated.definition.steps)
    return Validated(validated.definition.model_copy(update={"outputs": outputs}), validated.warnings)


def _check_plan(
    plan: dict[str, Any], secrets: Collection[str], uses: Collection[str] | None, findings: Findings
) -> None:
    """Checks what holds for plans in addition to what holds for every definition."""
    for key in FLOW_CONTROL_KEYS:
        if key in plan:
            findings.add((key,), f"a plan has no {key}, which is for workflows that are started", "remove it")
    for position, name in texts(plan.get("secrets")):
        if name not in secrets:
            problem = f'the workflow around the plan has no secret "{name[:64]}"'
            findings.add(("secrets", position), problem, did_you_mean(name, secrets) or "remove it")
    for name, agent in mapping(plan.get("agents")).items():
        if mapping(agent).get("use") is not None:
            hint = "write the agent here, or ask one that the workflow around the plan has"
            findings.add(("agents", name, "use"), "a plan cannot use agents that are saved by themselves", hint)
    levels = list(levels_of(plan))
    count = sum(len(level.steps) for level in levels)
    if count > PLAN_STEPS_MAX:
        problem = f"the plan has {count} steps, those of groups included, and {PLAN_STEPS_MAX} are allowed"
        findings.add(("steps",), problem, "make several plans of it")
    if not plan.get("outputs"):
        check_sinks(levels[0], findings)
    for level in levels if uses is not None else ():
        for step_id, step in level.steps.items():
            _check_use(mapping(step).get("workflow"), (*level.step_at(step_id), "workflow"), uses or (), findings)


def _check_use(call: Any, at: Location, uses: Collection[str], findings: Findings) -> None:
    if call is None:
        return
    name, version = mapping(call).get("name", call), mapping(call).get("version")
    key = name if version is None else f"{name}@{version}"
    if isinstance(name, str) and key not in uses:
        problem = f'the workflow around the plan does not use the workflow "{key[:64]}"'
        hint = did_you_mean(key, uses) or "a plan can run those only that are used beside it"
        findings.add(at, problem, hint)


def _merged(around: dict[str, Any], own: Any) -> Any:
    """Returns what the plan says, completed; what is of the wrong shape stays, and is reported as that."""
    return {**around, **own} if isinstance(own, dict) else own if own is not None else around


def _dumped(part: Agent | Limits | Defaults | None) -> dict[str, Any]:
    return {} if part is None else part.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _with_secrets_of(agents: Iterable[Agent], own: Any) -> Any:
    """Returns the plan's secrets, and those that the settings of inherited agents' tools hold."""
    if own is not None and not isinstance(own, list):
        return own
    return [*(own or ()), *(name for name in secrets_of(agents) if name not in (own or ()))]
