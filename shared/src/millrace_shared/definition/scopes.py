"""Checks every expression of a definition against what it may see from where it stands.

| place | may read |
|---|---|
| `when`, `for_each` | inputs, execution, workflow, and steps that come before |
| `prompt`, `input`, `transform`, `plan`, `wait.until`, `approval.message`, `cache.key`, `http.method` | the same; `item` and `index` under `for_each`; `iteration` and `previous` under `repeat` |
| other values of `http` | the same, and secrets |
| `repeat.until` | what the step's own templates may read, and `output` |
| `outputs` | inputs, execution, workflow, and every step |
| `instructions` of an agent | inputs, execution, workflow |
| `config` of a tool | the same, and secrets |
| `key` of flow control | inputs |

Inside a group, `inputs` are the keys of its step's `input`, and steps are those of the group. That holds for the
instructions of an agent that works there, too.
"""  # noqa: E501  # a table

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from millrace_shared.definition.findings import Findings, Suggestion, mapping, texts
from millrace_shared.definition.flow import FLOW_CONTROL_KEYS
from millrace_shared.definition.graph import Ancestors
from millrace_shared.definition.levels import Level, levels_of
from millrace_shared.definition.locations import Location
from millrace_shared.definition.refusals import out_of_place
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
_ITERATION = frozenset({"iteration", "previous"})
_SECRETS = frozenset({"secrets"})
_TEMPLATES: tuple[tuple[str, ...], ...] = (
    ("prompt",),
    ("input",),
    ("transform",),
    ("plan",),
    ("wait", "until"),
    ("approval", "message"),
    ("cache", "key"),
)
"""Places of a step that may read its ancestors, its item and its iteration."""


class _Scope:
    """What can be read on one level: its inputs with their types, and its steps with who comes before whom."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.inputs = level.inputs
        needs = {
            step_id: [need for _, need in texts(mapping(step).get("needs")) if need != step_id]
            for step_id, step in level.steps.items()
        }
        self.ancestors = Ancestors(needs)
        self.types = InputTypes({name: mapping(schema).get("type") for name, schema in level.inputs.items()})


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an expression stands.

    Attributes:
        roots: The names that it may read.
        scope: What these names mean; None where each user of the expression has other inputs.
        step_id: Its step, if it belongs to one.
    """

    roots: frozenset[str]
    scope: _Scope | None
    step_id: str | None = None


class _Checker:
    def __init__(self, data: dict[str, Any], inherited: Collection[str], findings: Findings) -> None:
        self._data = data
        self._findings = findings
        self._inherited = inherited
        self._agents = mapping(data.get("agents"))
        self._secrets = {name for _, name in texts(data.get("secrets"))}

    def check(self) -> None:
        scopes = [_Scope(level) for level in levels_of(self._data)]
        for scope in scopes:
            level = scope.level
            for step_id, raw in level.steps.items():
                self._check_step(step_id, mapping(raw), scope)
            for name, value in mapping(level.data.get("outputs")).items():
                self._template(value, (*level.at, "outputs", name), _Place(_STEPS, scope))
        self._check_agents(scopes)
        for key in FLOW_CONTROL_KEYS:
            at: Location = (key, "key")
            self._template(mapping(self._data.get(key)).get("key"), at, _Place(frozenset({"inputs"}), scopes[0]))

    def _check_step(self, step_id: str, step: dict[str, Any], scope: _Scope) -> None:
        at = scope.level.step_at(step_id)
        outside = _Place(_STEPS, scope, step_id)
        if isinstance(step.get("when"), str):
            self._condition(step["when"], (*at, "when"), outside)
        self._template(step.get("for_each"), (*at, "for_each"), outside)
        roots = _STEPS
        roots |= _ITEM if step.get("for_each") is not None else frozenset()
        roots |= _ITERATION if step.get("repeat") is not None else frozenset()
        inside = replace(outside, roots=roots)
        for below in _TEMPLATES:
            value: Any = step
            for key in below:
                value = mapping(value).get(key)
            self._template(value, (*at, *below), inside)
        with_secrets = replace(inside, roots=roots | _SECRETS)
        for key, value in mapping(step.get("http")).items():
            self._template(value, (*at, "http", key), inside if key == "method" else with_secrets)
        until = mapping(step.get("repeat")).get("until")
        if isinstance(until, str):
            self._condition(until, (*at, "repeat", "until"), replace(inside, roots=roots | {"output"}))

    def _check_agents(self, scopes: list[_Scope]) -> None:
        """Checks agents where they are declared, but their inputs where they work, if that is elsewhere."""
        used_by = [_first_users(scope.level) for scope in scopes]
        elsewhere = set(self._inherited).union(*(set(users) for users in used_by[1:])) - (
            set(used_by[0]) - set(self._inherited)
        )
        for name, raw in self._agents.items():
            own = None if name in elsewhere else scopes[0]
            for below, value, roots in _agent_templates(mapping(raw)):
                self._template(value, ("agents", name, *below), _Place(roots, own))
        for scope, users in zip(scopes, used_by, strict=True):
            for name, step_id in users.items():
                if scope is scopes[0] and name not in self._inherited:
                    continue
                at = (*scope.level.step_at(step_id), "agent")
                for below, value, _ in _agent_templates(mapping(self._agents.get(name))):
                    self._inputs_only(value, at, scope, f"the {below[0]} of {name}")

    def _inputs_only(self, value: Any, at: Location, scope: _Scope, written_in: str) -> None:
        """Checks the inputs that a template reads; all else of it is checked where it is declared."""
        try:
            uses = compile_template(value).uses if value is not None else ()
        except TemplateInvalid:
            return
        for expression in (use.expression for use in uses):
            for reference in expression.references:
                mistake = _mistake_in_input(reference, scope) if reference.root == "inputs" else None
                if mistake is not None:
                    self._findings.add(at, f"in `{expression.source}` in {written_in}: {mistake[0]}", mistake[1])

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
        if place.scope is not None and len(self._findings.mistakes) == before:
            try:
                place.scope.types.check(expression, is_condition=is_condition)
            except ExpressionInvalid as error:
                self._invalid(at, error)

    def _mistake(self, reference: Reference, place: _Place) -> tuple[str, Suggestion] | None:
        root = reference.root
        if root not in place.roots:
            holder = place.scope.level.holder if place.scope is not None else None
            return out_of_place(root, place.roots, holder=holder)
        if root == "secrets":
            return self._mistake_in_secret(str(reference.keys[0]))
        if root == "steps" and place.scope is not None:
            return _mistake_in_step(str(reference.step_id), place, place.scope)
        if root == "inputs" and place.scope is not None:
            return _mistake_in_input(reference, place.scope)
        return None

    def _mistake_in_secret(self, name: str) -> tuple[str, Suggestion] | None:
        if name in self._secrets:
            return None
        hint = did_you_mean(name, self._secrets) or f"add it to secrets: [{name}]"
        return f'the secret "{name[:64]}" is not declared', hint


def _first_users(level: Level) -> dict[str, str]:
    """Returns the agents that work on a level, each with the first step that asks it."""
    users: dict[str, str] = {}
    for step_id, step in level.steps.items():
        name = mapping(step).get("agent")
        if isinstance(name, str):
            users.setdefault(name, step_id)
    return users


def _agent_templates(agent: dict[str, Any]) -> list[tuple[Location, Any, frozenset[str]]]:
    """Returns what of an agent may hold expressions: its place, the value, and the names that it may read."""
    found: list[tuple[Location, Any, frozenset[str]]] = [(("instructions",), agent.get("instructions"), _ALWAYS)]
    tools = agent.get("tools")
    for position, tool in enumerate(tools if isinstance(tools, list) else ()):
        found.append((("tools", position, "config"), mapping(tool).get("config"), _ALWAYS | _SECRETS))
    return found


def _mistake_in_input(reference: Reference, scope: _Scope) -> tuple[str, Suggestion] | None:
    name = reference.keys[0] if reference.keys else None
    if not isinstance(name, str) or name in scope.inputs:
        return None
    holder = scope.level.holder
    guess = did_you_mean(name, scope.inputs)
    if holder is None:
        return f'there is no input "{name[:64]}"', guess or "declare it under inputs"
    return f'the group "{holder}" has no input "{name[:64]}"', guess or f"add it to the input of {holder}"


def _mistake_in_step(read: str, place: _Place, scope: _Scope) -> tuple[str, Suggestion] | None:
    level = scope.level
    if read not in level.steps:
        if level.is_outside(read):
            problem = f'`steps.{read}` is outside of the group "{level.holder}", which sees its own steps only'
            return problem, f"pass it in by the input of {level.holder}"
        return f'there is no step "{read[:64]}"', partial(did_you_mean, read, level.steps)
    if read == place.step_id:
        return "a step cannot read its own result", "write output" if "output" in place.roots else None
    return None if place.step_id is None else _mistake_in_order(read, place.step_id, scope.ancestors)


def _mistake_in_order(read: str, reader: str, ancestors: Ancestors) -> tuple[str, Suggestion] | None:
    if reader not in ancestors or ancestors.has(reader, read):
        return None
    if ancestors.has(read, reader):
        return f"`steps.{read}` runs after `{reader}`, so it has no result yet", None
    return f"`steps.{read}` is not an ancestor of `{reader}`", f"add {read} to needs"


def check_scopes(data: dict[str, Any], findings: Findings, *, inherited: Collection[str] = ()) -> None:
    """Checks the expressions of a definition, which is raw data and may have other mistakes.

    Args:
        data: The definition.
        findings: Receives what is wrong.
        inherited: Agents that are not the author's own: what they read of the inputs is looked at where they work,
            and not at all if nobody asks them.
    """
    _Checker(data, inherited, findings).check()
