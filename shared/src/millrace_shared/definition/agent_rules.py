"""Rules of one agent, on raw data, so that they report at once with all others."""

from typing import Any

from millrace_shared.definition.agents import PROVIDERS, with_one_spelling
from millrace_shared.definition.findings import Findings, mapping, texts
from millrace_shared.definition.guard_rules import check_guards
from millrace_shared.definition.locations import Location
from millrace_shared.definition.step_rules import check_json_schema
from millrace_shared.definition.tools import TOOLS, is_misspelt
from millrace_shared.expressions.suggest import did_you_mean

_BESIDE_USE = frozenset({"use", "description"})


def check_agent(written: Any, at: Location, findings: Findings) -> None:
    """Checks what holds between the fields of an agent, and that there are providers of its models."""
    if not isinstance(written, dict):
        return
    agent = with_one_spelling(written)
    if agent.get("use") is not None:
        for key in agent.keys() - _BESIDE_USE:
            problem = "an agent that is used from those saved has all of this already"
            findings.add((*at, key), problem, "remove it, or write the whole agent here, without use")
        return
    if agent.get("model") is None:
        half = [key for key in ("llm_provider", "llm_model") if key in agent]
        hint = "llm_provider and llm_model go together" if half else "add model: provider:model"
        findings.add((*at, "model"), "this is required", hint)
    _check_models(agent, written, at, findings)
    _check_tools(agent.get("tools"), (*at, "tools"), findings)
    check_json_schema(agent.get("output"), (*at, "output"), findings)
    check_guards(agent.get("guards"), (*at, "guards"), findings)


def _check_models(agent: dict[str, Any], written: dict[str, Any], at: Location, findings: Findings) -> None:
    first: Location = (*at, "model" if "model" in written else "llm_provider")
    _check_provider(agent.get("model"), first, findings)
    for position, name in texts(agent.get("fallback_models")):
        _check_provider(name, (*at, "fallback_models", position), findings)
    guards = mapping(agent.get("guards"))
    for side in ("input", "output"):
        listed = guards.get(side)
        for position, guard in enumerate(listed if isinstance(listed, list) else ()):
            model = mapping(mapping(guard).get("judge")).get("model")
            _check_provider(model, (*at, "guards", side, position, "judge", "model"), findings)


def _check_tools(tools: Any, at: Location, findings: Findings) -> None:
    for position, tool in enumerate(tools if isinstance(tools, list) else ()):
        name = mapping(tool).get("name") if isinstance(tool, dict) else tool
        if isinstance(name, str) and is_misspelt(name) and not mapping(mapping(tool).get("config")).get("call"):
            place = (*at, position, "name") if isinstance(tool, dict) else (*at, position)
            hint = (
                did_you_mean(name, TOOLS)
                or f"there are {', '.join(TOOLS)}, or name a function by config: {{call: ...}}"
            )
            findings.add(place, f'there is no tool "{name[:64]}"', hint)


def _check_provider(model: Any, at: Location, findings: Findings) -> None:
    if not isinstance(model, str) or ":" not in model:
        return  # reported with its shape
    provider = model.partition(":")[0]
    if provider not in PROVIDERS:
        hint = did_you_mean(provider, PROVIDERS) or f"there are {', '.join(PROVIDERS)}"
        findings.add(at, f'there is no model provider "{provider[:64]}"', hint)
