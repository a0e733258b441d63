"""Rules between the fields of a step, and between steps: on raw data, so that they all report at once.

Shapes are `shape.py`'s concern: what is not of the expected type is passed over here.
"""

import datetime as dt
from collections.abc import Mapping
from functools import partial
from typing import Any

from millrace_shared.definition.durations import parse_duration
from millrace_shared.definition.findings import Findings, mapping, texts
from millrace_shared.definition.graph import find_cycle
from millrace_shared.definition.limits import FOR_EACH_ITEMS_MAX, NEEDS_TOTAL_MAX
from millrace_shared.definition.locations import Location
from millrace_shared.definition.model import STEP_KINDS
from millrace_shared.definition.schemas import SchemaMistake, check_schema, mistakes_of
from millrace_shared.expressions.paths import type_name
from millrace_shared.expressions.suggest import did_you_mean

CYCLES_SHOWN_MAX = 20
_KINDS_WITH_INPUT = ("agent", "python")


def check_rules(data: dict[str, Any], findings: Findings) -> None:
    """Checks everything that holds between fields; expressions are `scopes.py`'s concern."""
    steps = mapping(data.get("steps"))
    agents = mapping(data.get("agents"))
    for step_id, raw in steps.items():
        at: Location = ("steps", step_id)
        step = mapping(raw)
        if isinstance(raw, dict):
            _check_kind(step, at, findings)
        _check_agent(step, at, agents, findings)
        _check_http(step, at, findings)
        _check_wait(step, at, findings)
        _check_for_each(step, at, findings)
        _check_retry(step.get("retry"), (*at, "retry"), findings)
        _check_schema(step.get("output"), (*at, "output"), findings)
    for name, agent in agents.items():
        _check_schema(mapping(agent).get("output"), ("agents", name, "output"), findings)
    _check_retry(mapping(data.get("defaults")).get("retry"), ("defaults", "retry"), findings)
    _check_inputs(mapping(data.get("inputs")), findings)
    if mapping(data.get("limits")).get("max_cost_usd") is not None:
        unheeded = "this version records what an execution costs, and does not stop at a budget"
        findings.warn(("limits", "max_cost_usd"), unheeded)
    _check_repeats(data.get("secrets"), ("secrets",), findings)
    _check_needs(steps, findings)


def _check_kind(step: Mapping[str, Any], at: Location, findings: Findings) -> None:
    kinds = [kind for kind in STEP_KINDS if step.get(kind) is not None]
    if len(kinds) > 1:
        findings.add(at, f"a step has one kind, and this one has {' and '.join(kinds)}", "make it several steps")
    if not kinds:
        findings.add(at, "a step needs a kind", f"add one of {', '.join(STEP_KINDS)}")
    if step.get("prompt") is not None and kinds and "agent" not in kinds:
        findings.add((*at, "prompt"), "only agent steps have a prompt")
    if kinds == ["agent"] and step.get("prompt") is None and step.get("input") is None:
        findings.add(at, "an agent step needs a prompt", "add prompt:")
    if step.get("input") is not None and kinds and not set(kinds) & set(_KINDS_WITH_INPUT):
        findings.warn((*at, "input"), f"{kinds[0]} steps do not read input", "only agent and python steps do")


def _check_agent(step: Mapping[str, Any], at: Location, agents: Mapping[str, Any], findings: Findings) -> None:
    name = step.get("agent")
    if isinstance(name, str) and name not in agents:
        findings.add(
            (*at, "agent"),
            f'there is no agent "{name[:64]}"',
            lambda: did_you_mean(name, agents) or "declare it under agents",
        )


def _check_http(step: Mapping[str, Any], at: Location, findings: Findings) -> None:
    call = mapping(step.get("http"))
    if call.get("json") is not None and call.get("body") is not None:
        findings.add((*at, "http", "body"), "a request has one body, and json is given, too", "remove one of them")
    url = call.get("url")
    if isinstance(url, str) and not url.startswith(("http://", "https://", "${{")):
        findings.add((*at, "http", "url"), "a url begins with http:// or https://", f"write https://{url[:60]}")


def _check_wait(step: Mapping[str, Any], at: Location, findings: Findings) -> None:
    raw = step.get("wait")
    if not isinstance(raw, dict) or raw.get("signal") is not None:
        return
    given = [key for key in ("delay", "until") if raw.get(key) is not None]
    if len(given) != 1:
        findings.add((*at, "wait"), "a wait has exactly one of delay and until", "write wait: {delay: 5s}")
    until = raw.get("until")
    if isinstance(until, str) and "${{" not in until and not is_time(until):
        hint = "write it like 2026-01-15T10:00:00Z"
        findings.add((*at, "wait", "until"), f'"{until[:60]}" is not an RFC 3339 time with a zone', hint)


def is_time(text: str) -> bool:
    """Tells whether a text is an RFC 3339 time, with its zone."""
    try:
        return dt.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _check_for_each(step: Mapping[str, Any], at: Location, findings: Findings) -> None:
    items = step.get("for_each")
    place = (*at, "for_each")
    if items is None:
        if step.get("max_parallel") is not None:
            findings.warn((*at, "max_parallel"), "max_parallel has no meaning without for_each", "remove it")
    elif isinstance(items, list):
        if len(items) > FOR_EACH_ITEMS_MAX:
            findings.add(place, f"the list has {len(items)} items, and {FOR_EACH_ITEMS_MAX} are allowed")
    elif not isinstance(items, str):
        findings.add(place, f"a list or an expression is needed here, and this is {type_name(items)}")
    elif not (items.strip().startswith("${{") and items.strip().endswith("}}")):
        findings.add(
            place,
            "a list or an expression is needed here, and this is text",
            f"write ${{{{ {items[:60]} }}}}",
        )


def _check_retry(raw: Any, at: Location, findings: Findings) -> None:
    retry = mapping(raw)
    try:
        longest = parse_duration(retry["max"])
        first = parse_duration(retry["initial"])
    except (KeyError, ValueError):
        return
    if first > longest:
        findings.add((*at, "initial"), f"the first pause ({first:g} s) is longer than the longest ({longest:g} s)")


def _check_schema(schema: Any, at: Location, findings: Findings) -> bool:
    if not isinstance(schema, dict):
        return False
    try:
        check_schema(schema)
    except SchemaMistake as mistake:
        findings.add((*at, *mistake.location), str(mistake))
        return False
    return True


def _check_inputs(inputs: Mapping[str, Any], findings: Findings) -> None:
    for name, schema in inputs.items():
        at: Location = ("inputs", name)
        if _check_schema(schema, at, findings) and "default" in schema:
            for place, message in mistakes_of(schema, schema["default"], at_most=3):
                where = f" at {place}" if place else ""
                findings.add((*at, "default"), f"the default does not fit its own schema{where}: {message}")


def _check_repeats(raw: Any, at: Location, findings: Findings) -> None:
    seen: set[str] = set()
    for position, name in texts(raw):
        if name in seen:
            findings.add((*at, position), f'"{name[:64]}" is there twice', "remove one of them")
        seen.add(name)


def _check_needs(steps: Mapping[str, Any], findings: Findings) -> None:
    graph: dict[str, tuple[str, ...]] = {}
    total = 0
    for step_id, raw in steps.items():
        at: Location = ("steps", step_id, "needs")
        needs = texts(mapping(raw).get("needs"))
        total += len(needs)
        for position, need in needs:
            if need == step_id:
                findings.add((*at, position), "a step cannot need itself", "remove it")
            elif need not in steps:
                findings.add((*at, position), f'there is no step "{need[:64]}"', partial(did_you_mean, need, steps))
        _check_repeats([need for _, need in needs], at, findings)
        graph[step_id] = tuple(need for _, need in needs if need != step_id)
    if total > NEEDS_TOTAL_MAX:
        findings.add(("steps",), f"the steps have {total} needs in all, and {NEEDS_TOTAL_MAX} are allowed")
    for _ in range(CYCLES_SHOWN_MAX):
        cycle = find_cycle(graph)
        if cycle is None:
            return
        at = ("steps", cycle[0], "needs")
        findings.add(at, f"these steps wait for one another: {_spelt(cycle)}", "remove one of these needs")
        for step_id in set(cycle):
            del graph[step_id]


def _spelt(cycle: tuple[str, ...]) -> str:
    shown = cycle if len(cycle) <= 12 else (*cycle[:6], "...", *cycle[-5:])  # noqa: PLR2004
    return " → ".join(shown)
