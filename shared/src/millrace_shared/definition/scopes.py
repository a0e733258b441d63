"""Checks every expression of a definition against what it may see from where it stands.

| place | may read |
|---|---|
| `when`, `for_each` | inputs, execution, workflow, and steps that come before |
| `prompt`, `input`, `transform`, `wait.until`, `http.method` | the same, and `item`, `index` under `for_each` |
| other values of `http` | the same, and secrets |
| `outputs` | inputs, execution, workflow, and every step |
| `instructions` of an agent | inputs, execution, workflow |
| `config` of a tool | the same, and secrets |
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from millrace_shared.definition.findings import Findings, Suggestion, mapping, texts
from millrace_shared.definition.graph import Ancestors
from millrace_shared.definition.locations import Location
from millrace_shared.expressions.condition import compile_condition
from millrace_shared.expressions.errors import ExpressionInvalid, TemplateInvalid
from millrace_shared.expressions.expression import Expression
from millrace_shared.expressions.program import Reference
from millrace_shared.expressions.suggest import did_you_mean
from millrace_shared.expressions.template import compile_template
from millrace_shared.expressions.types import InputTypes

_ALWAYS = frozenset({"inputs", "execution", "workflow"})
_STEPS = _ALWAYS | {"steps"}
_ITEM = frozenset({"item", "index"})
_SECRETS = frozenset({"secrets"})


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an expression stands: the roots it may read, and its step, if it belongs to one."""

    roots: frozenset[str]
    step_id: str | None = None


class _Checker:
    def __init__(self, data: dict[str, Any], findings: Findings) -> None:
        self._data = data
        self._findings = findings
        self._steps = mapping(data.get("steps"))
        self._inputs = mapping(data.get("inputs"))
        self._secrets = {name for _, name in texts(data.get("secrets"))}
        needs = {
            step_id: [need for _, need in texts(mapping(step).get("needs")) if need != step_id]
            for step_id, step in self._steps.items()
        }
        self._ancestors = Ancestors(needs)
        self._types = InputTypes({name: mapping(schema).get("type") for name, schema in self._inputs.items()})

    def check(self) -> None:
        for step_id, raw in self._steps.items():
            self._check_step(step_id, mapping(raw))
        for name, raw in mapping(self._data.get("agents")).items():
            self._check_agent(("agents", name), mapping(raw))
        for name, value in mapping(self._data.get("outputs")).items():
            self._template(value, ("outputs", name), _Place(_STEPS))

    def _check_step(self, step_id: str, step: dict[str, Any]) -> None:
        at: Location = ("steps", step_id)
        outside = _Place(_STEPS, step_id)
        inside = _Place(_STEPS | _ITEM if step.get("for_each") is not None else _STEPS, step_id)
        if isinstance(step.get("when"), str):
            self._condition(step["when"], (*at, "when"), outside)
        self._template(step.get("for_each"), (*at, "for_each"), outside)
        for key in ("prompt", "input", "transform"):
            self._template(step.get(key), (*at, key), inside)
        self._template(mapping(step.get("wait")).get("until"), (*at, "wait", "until"), inside)
        with_secrets = _Place(inside.roots | _SECRETS, step_id)
        for key, value in mapping(step.get("http")).items():
            self._template(value, (*at, "http", key), inside if key == "method" else with_secrets)

    def _check_agent(self, at: Location, agent: dict[str, Any]) -> None:
        self._template(agent.get("instructions"), (*at, "instructions"), _Place(_ALWAYS))
        tools = agent.get("tools")
        for position, tool in enumerate(tools if isinstance(tools, list) else ()):
            config = mapping(tool).get("config")
            self._template(config, (*at, "tools", position, "config"), _Place(_ALWAYS | _SECRETS))

    def _condition(self, text: str, at: Location, place: _Place) -> None:
        try:
            condition = compile_condition(text)
        except ExpressionInvalid as error:
            self._invalid(at, error)
            return
        self._expression(condition.expression, at, place, is_condition=True)

    def _template(self, value: Any, at: Location, place: _Place) -> None:
        if value is None:
            return
        try:
            template = compile_template(value)
        except TemplateInvalid as error:
            for mistake in error.mistakes:
                self._invalid((*at, *mistake.location), mistake.error)
            return
        for use in template.uses:
            self._expression(use.expression, (*at, *use.location), place)

    def _invalid(self, at: Location, error: ExpressionInvalid) -> None:
        shown = f"in `{error.expression}`: " if error.expression.strip() else ""
        self._findings.add(at, f"{shown}{error.reason}", error.suggestion)

    def _expression(self, expression: Expression, at: Location, place: _Place, *, is_condition: bool = False) -> None:
        before = len(self._findings.mistakes)
        for reference in expression.references:
            mistake = self._mistake(reference, place)
            if mistake is not None:
                message, suggestion = mistake
                self._findings.add(at, f"in `{expression.source}`: {message}", suggestion)
        if len(self._findings.mistakes) == before:
            try:
                self._types.check(expression, is_condition=is_condition)
            except ExpressionInvalid as error:
                self._invalid(at, error)

    def _mistake(self, reference: Reference, place: _Place) -> tuple[str, Suggestion] | None:
        root = reference.root
        if root not in place.roots:
            return _out_of_place(root, place)
        if root == "steps":
            return self._mistake_in_step(str(reference.step_id), place)
        name = reference.keys[0] if reference.keys else None
        if root == "inputs" and isinstance(name, str) and name not in self._inputs:
            return f'there is no input "{name[:64]}"', did_you_mean(name, self._inputs) or "declare it under inputs"
        if root == "secrets" and name not in self._secrets:
            hint = did_you_mean(str(name), self._secrets) or f"add it to secrets: [{name}]"
            return f'the secret "{str(name)[:64]}" is not declared', hint
        return None

    def _mistake_in_step(self, read: str, place: _Place) -> tuple[str, Suggestion] | None:
        if read not in self._steps:
            return f'there is no step "{read[:64]}"', partial(did_you_mean, read, self._steps)
        if place.step_id is None:
            return None
        if read == place.step_id:
            return "a step cannot read its own result", None
        if place.step_id in self._ancestors and not self._ancestors.has(place.step_id, read):
            if self._ancestors.has(read, place.step_id):
                return f"`steps.{read}` runs after `{place.step_id}`, so it has no result yet", None
            return f"`steps.{read}` is not an ancestor of `{place.step_id}`", f"add {read} to needs"
        return None


def _out_of_place(root: str, place: _Place) -> tuple[str, Suggestion]:
    if root in _ITEM:
        where = "exists only under for_each, in what the step does for each item"
        return f"`{root}` {where}", None
    if root == "secrets":
        reason = "a secret may only go into url, query, headers, json and body of an http step, or tool settings"
        return reason, None
    if root == "steps" and place.step_id is None:
        return "an agent is shared by steps, so it cannot read their results", "put it into the step's prompt"
    return f"`{root}` cannot be read here", None


def check_scopes(data: dict[str, Any], findings: Findings) -> None:
    """Checks the expressions of a definition, which is raw data and may have other mistakes."""
    _Checker(data, findings).check()
