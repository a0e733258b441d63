"""Rules between steps, and between the parts of a definition: on raw data, so that they all report at once.

Those within one step are in `step_rules.py`. Groups are looked at like the workflow itself, level by level.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from millrace_shared.definition.agent_rules import check_agent
from millrace_shared.definition.findings import Findings, mapping, texts
from millrace_shared.definition.graph import find_cycle
from millrace_shared.definition.levels import Level, levels_of, sinks_of
from millrace_shared.definition.limits import (
    EXECUTION_TIMEOUT_DEFAULT_S,
    GROUP_DEPTH_MAX,
    NEEDS_TOTAL_MAX,
    OUTPUTS_MAX,
    STEPS_MAX,
    USES_MAX,
)
from millrace_shared.definition.locations import Location
from millrace_shared.definition.schemas import mistakes_of
from millrace_shared.definition.step_rules import (
    check_json_schema,
    check_patience,
    check_retry,
    check_step,
    duration_s,
)
from millrace_shared.expressions.suggest import did_you_mean

CYCLES_SHOWN_MAX = 20


def check_rules(data: dict[str, Any], findings: Findings) -> None:
    """Checks everything that holds between fields; expressions are `scopes.py`'s concern."""
    levels = list(levels_of(data))
    agents = mapping(data.get("agents"))
    limit_s = duration_s(mapping(data.get("limits")).get("timeout")) or EXECUTION_TIMEOUT_DEFAULT_S
    for level in levels:
        _check_level(level, agents, limit_s, findings)
    _check_totals(levels, findings)
    for name, agent in agents.items():
        check_agent(agent, ("agents", name), findings)
    check_retry(mapping(data.get("defaults")).get("retry"), ("defaults", "retry"), findings)
    _check_inputs(mapping(data.get("inputs")), findings)
    if data.get("concurrency") is not None and data.get("singleton") not in (None, False):
        problem = "a singleton is a concurrency of 1, and concurrency is given, too"
        findings.add(("singleton",), problem, "remove one of them")
    _check_repeats(data.get("secrets"), ("secrets",), findings)


def _check_level(level: Level, agents: Mapping[str, Any], limit_s: float, findings: Findings) -> None:
    if level.depth == GROUP_DEPTH_MAX + 1:
        hint = "make the inner ones a workflow of their own"
        findings.add(level.at, f"groups are nested deeper than {GROUP_DEPTH_MAX}", hint)
    if level.outside is not None and level.data.get("outputs") in (None, {}):
        check_sinks(level, findings)
    for step_id, raw in level.steps.items():
        if isinstance(raw, dict):
            at = level.step_at(step_id)
            check_step(raw, at, findings)
            check_patience(raw, at, limit_s, findings)
            _check_agent(raw, at, agents, findings)
    _check_needs(level, findings)


def check_sinks(level: Level, findings: Findings) -> None:
    """Checks that a level without outputs of its own can have those of its last steps."""
    count = len(sinks_of(level.steps))
    if count > OUTPUTS_MAX:
        problem = f"without outputs its {count} last steps would be the output, and {OUTPUTS_MAX} are allowed"
        findings.add((*level.at, "outputs"), problem, "name its outputs")


def _check_totals(levels: list[Level], findings: Findings) -> None:
    """Checks what is bounded for the definition as a whole, groups included."""
    steps = [mapping(step) for level in levels for step in level.steps.values()]
    if len(steps) > STEPS_MAX >= len(levels[0].steps):
        findings.add(("steps",), f"there are {len(steps)} steps, those of groups included; {STEPS_MAX} are allowed")
    needs = sum(len(texts(step.get("needs"))) for step in steps)
    if needs > NEEDS_TOTAL_MAX:
        findings.add(("steps",), f"the steps have {needs} needs in all, and {NEEDS_TOTAL_MAX} are allowed")
    calls = [step["workflow"] for step in steps if step.get("workflow") is not None]
    uses = {str(mapping(call).get("name", call)) + str(mapping(call).get("version", "")) for call in calls}
    if len(uses) > USES_MAX:
        findings.add(("steps",), f"the steps run {len(uses)} other workflows, and {USES_MAX} are allowed")


def _check_agent(step: Mapping[str, Any], at: Location, agents: Mapping[str, Any], findings: Findings) -> None:
    name = step.get("agent")
    if isinstance(name, str) and name not in agents:
        findings.add(
            (*at, "agent"),
            f'there is no agent "{name[:64]}"',
            lambda: did_you_mean(name, agents) or "declare it under agents",
        )


def _check_inputs(inputs: Mapping[str, Any], findings: Findings) -> None:
    for name, schema in inputs.items():
        at: Location = ("inputs", name)
        if check_json_schema(schema, at, findings) and "default" in schema:
            for place, message in mistakes_of(schema, schema["default"], at_most=3):
                where = f" at {place}" if place else ""
                findings.add((*at, "default"), f"the default does not fit its own schema{where}: {message}")


def _check_repeats(raw: Any, at: Location, findings: Findings) -> None:
    seen: set[str] = set()
    for position, name in texts(raw):
        if name in seen:
            findings.add((*at, position), f'"{name[:64]}" is there twice', "remove one of them")
        seen.add(name)


def _check_needs(level: Level, findings: Findings) -> None:
    steps = level.steps
    graph: dict[str, tuple[str, ...]] = {}
    for step_id, raw in steps.items():
        at: Location = (*level.step_at(step_id), "needs")
        needs = texts(mapping(raw).get("needs"))
        for position, need in needs:
            if need == step_id:
                findings.add((*at, position), "a step cannot need itself", "remove it")
            elif need not in steps:
                _no_such_need(need, level, (*at, position), findings)
        _check_repeats([need for _, need in needs], at, findings)
        graph[step_id] = tuple(need for _, need in needs if need != step_id)
    for _ in range(CYCLES_SHOWN_MAX):
        cycle = find_cycle(graph)
        if cycle is None:
            return
        at = (*level.step_at(cycle[0]), "needs")
        findings.add(at, f"these steps wait for one another: {_spelt(cycle)}", "remove one of these needs")
        for step_id in set(cycle):
            del graph[step_id]


def _no_such_need(need: str, level: Level, at: Location, findings: Findings) -> None:
    if level.is_outside(need):
        problem = f'"{need[:64]}" is outside of the group "{level.holder}", whose steps need only one another'
        findings.add(at, problem, f"let {level.holder} need it")
    else:
        findings.add(at, f'there is no step "{need[:64]}"', partial(did_you_mean, need, level.steps))


def _spelt(cycle: tuple[str, ...]) -> str:
    shown = cycle if len(cycle) <= 12 else (*cycle[:6], "...", *cycle[-5:])  # noqa: PLR2004
    return " → ".join(shown)
