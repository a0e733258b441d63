"""What a trigger says about events: which ones it takes, which are the same, and what an execution is started with.

`filter` and `dedupe` are bare CEL expressions, `input` maps the workflow's inputs to templates. All see

| name | value |
|---|---|
| `event` | what happened, any JSON; null for cron |
| `trigger.<field>` | `id`, `name`, `kind`, `fired_at`, and by kind those of `FACTS` |
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from millrace_api.errors import EventUnusable, Mistake
from millrace_shared.definition.locations import Location
from millrace_shared.expressions.condition import Condition, compile_condition
from millrace_shared.expressions.errors import ExpressionError, ExpressionInvalid, TemplateInvalid
from millrace_shared.expressions.expression import Expression, compile_expression
from millrace_shared.expressions.names import TRIGGER_ROOTS
from millrace_shared.expressions.program import Evaluate, Reference
from millrace_shared.expressions.suggest import did_you_mean
from millrace_shared.expressions.template import Template, compile_template

FACTS: Mapping[str, tuple[str, ...]] = {
    "cron": ("scheduled_at", "timezone"),
    "event": ("subject", "sequence", "published_at"),
    "webhook": ("headers", "query"),
    "alert": ("receiver", "status"),
}
"""What `trigger` knows besides its id, name and kind, and when it fired, by kind."""
_ALWAYS = ("id", "name", "kind", "fired_at")
_PLAIN_ID = re.compile(r"[A-Za-z0-9_.:@/+-]{1,100}")
_ID_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that may fire a trigger.

    Attributes:
        event: what happened, any JSON.
        facts: the fields of `trigger` that come with it (`FACTS`), and `fired_at`.
        identity: what tells it from others, unless the trigger's `dedupe` does; None: it is always a new one.
        by_hand: somebody tries the trigger out, so it is a new one in any case.
    """

    event: Any
    facts: Mapping[str, Any]
    identity: str | None = None
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """The expressions of one trigger, compiled."""

    filter: Condition | None
    dedupe: Expression | None
    input: Template

    def accepts(self, scope: Mapping[str, Any], evaluate: Evaluate) -> bool:
        """Tell whether the filter lets an event through.

        Raises:
            EventUnusable: the filter has no value for it.
        """
        if self.filter is None:
            return True
        try:
            return self.filter.test(scope, evaluate)
        except ExpressionError as error:
            raise EventUnusable(f"its filter fails: {error}") from None

    def identify(self, scope: Mapping[str, Any], evaluate: Evaluate) -> str | None:
        """Return what tells an event from others, or None if the trigger has no `dedupe`.

        Raises:
            EventUnusable: the expression has no value for it, or none that can tell events apart.
        """
        if self.dedupe is None:
            return None
        try:
            value = self.dedupe.value(scope, evaluate)
        except ExpressionError as error:
            raise EventUnusable(f"its dedupe fails: {error}") from None
        if value is None or value == "":
            raise EventUnusable(f"its dedupe gives nothing for this event: `{self.dedupe.source}`")
        text = value if isinstance(value, str) else msgspec.json.encode(value, order="deterministic").decode()
        if len(text) > _ID_BYTES_MAX:
            raise EventUnusable(f"its dedupe gives more than {_ID_BYTES_MAX} bytes: `{self.dedupe.source}`")
        return text if _PLAIN_ID.fullmatch(text) else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()

    def inputs(self, scope: Mapping[str, Any], evaluate: Evaluate) -> dict[str, Any]:
        """Return the input of the execution.

        Raises:
            EventUnusable: a template has no value for it.
        """
        try:
            resolved: dict[str, Any] = self.input.resolve(scope, evaluate).data
        except ExpressionError as error:
            raise EventUnusable(f"its input fails: {error}") from None
        return resolved


def read_rules(
    kind: str, filter_: str | None, dedupe: str | None, mapping: dict[str, Any] | None
) -> tuple[Rules, list[Mistake]]:
    """Compile the expressions of a trigger; with every mistake in them, in which case the rules are of no use."""
    mistakes: list[Mistake] = []
    condition: Condition | None = None
    expression: Expression | None = None
    template = compile_template({})
    if filter_ is not None:
        try:
            condition = compile_condition(filter_)
            mistakes += _misread(kind, ("filter",), filter_, condition.references)
        except ExpressionInvalid as error:
            mistakes.append(_mistake(("filter",), _worded(error), filter_))
    if dedupe is not None:
        try:
            expression = compile_expression(dedupe)
            mistakes += _misread(kind, ("dedupe",), dedupe, expression.references)
        except ExpressionInvalid as error:
            mistakes.append(_mistake(("dedupe",), _worded(error), dedupe))
    try:
        template = compile_template(mapping or {})
        for use in template.uses:
            source = use.expression.source
            mistakes += _misread(kind, ("input", *use.location), source, use.expression.references)
    except TemplateInvalid as error:
        mistakes += [_mistake(("input", *one.location), _worded(one.error), None) for one in error.mistakes]
    return Rules(condition, expression, template), mistakes


def _misread(kind: str, at: Location, source: str, references: Iterable[Reference]) -> Iterable[Mistake]:
    """Yield what an expression reads that a trigger of this kind does not have."""
    known = (*_ALWAYS, *FACTS[kind])
    for reference in references:
        field = reference.keys[0] if reference.keys else None
        if reference.root not in TRIGGER_ROOTS:
            yield _mistake(at, f"`{reference.root}` cannot be read here: a trigger sees `event` and `trigger`", source)
        elif reference.root == "event" and kind == "cron":
            yield _mistake(at, "a cron trigger has no event; `trigger.scheduled_at` is the time", source)
        elif reference.root == "trigger" and (not isinstance(field, str) or field not in known):
            hint = did_you_mean(str(field), known) or f"it has {', '.join(known)}"
            yield _mistake(at, f'`trigger` has no "{field}"; {hint}', source)


def _worded(error: ExpressionInvalid) -> str:
    if error.reason.startswith("there is no name"):
        return f"in `{error.expression}`: {error.reason.split(';')[0]}; a trigger sees `event` and `trigger`"
    return str(error)


def _mistake(at: Location, message: str, given: Any) -> Mistake:
    found: Mistake = {"loc": ["body", *at], "msg": message, "type": "expression"}
    if given is not None:
        found["input"] = given
    return found
