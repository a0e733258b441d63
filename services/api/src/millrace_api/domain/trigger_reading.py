"""Reading triggers from what people send: every mistake at once, with the field it is in and what would be right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from millrace_api.domain.documents import decode
from millrace_api.domain.trigger_calendar import check_fires
from millrace_api.domain.trigger_rules import Rules, read_rules
from millrace_api.domain.trigger_signatures import SECRET_CHARS_MIN
from millrace_api.domain.triggers import OF_KIND, SHARED, TriggerSpec
from millrace_api.errors import CalendarInvalid, Mistake, Refused
from millrace_shared.definition.errors import DefinitionInvalid, Problem
from millrace_shared.definition.loader import load
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.expressions.suggest import did_you_mean

SOURCE_BYTES_MAX = 64 * 1024
"""A trigger as sent, YAML or JSON."""

_decoder = msgspec.json.Decoder(TriggerSpec)


def read_spec(source: bytes, *, keep_null: bool = False) -> dict[str, Any]:
    """Read a trigger's fields from YAML or JSON; those that are null count as absent unless `keep_null`.

    Raises:
        Refused: `trigger_invalid`: it is neither, or no object.
    """
    try:
        document = load(source)
    except DefinitionInvalid as error:
        raise invalid([_unreadable(problem) for problem in error.problems]) from None
    if document.problems:
        raise invalid([_unreadable(problem) for problem in document.problems])
    if not isinstance(document.data, dict):
        raise invalid([_mistake((), "a trigger is an object with name, kind and workflow", "type_invalid")])
    return {name: value for name, value in document.data.items() if keep_null or value is not None}


def spec_of(fields: Mapping[str, Any]) -> TriggerSpec:
    """Return the trigger that `fields` describe, as far as their types go; `check_spec` does the rest.

    Raises:
        Refused: `trigger_invalid`.
    """
    unknown = [name for name in fields if name not in TriggerSpec.__struct_fields__]
    if unknown:
        known = [name for name in TriggerSpec.__struct_fields__ if name not in fields]
        raise invalid(
            [
                _mistake((name,), f"there is no such field{_hint(did_you_mean(name, known))}", "extra_forbidden")
                for name in unknown
            ]
        )
    try:
        return decode(_decoder, msgspec.json.encode(fields), "trigger_invalid")
    except Refused as refusal:
        for mistake in refusal.errors:
            if "secret" in mistake["loc"]:
                mistake.pop("input", None)
        raise


def check_spec(spec: TriggerSpec, definition: WorkflowDefinition | None, now: float) -> Rules:
    """Check everything about a trigger that its types do not say.

    Args:
        spec: the trigger.
        definition: the workflow's, at the version that it names; None when there is no such workflow.
        now: Unix seconds.

    Raises:
        Refused: `trigger_invalid`, with every mistake.
    """
    rules, mistakes = read_rules(spec.kind, spec.filter, spec.dedupe, spec.input)
    mistakes = [*_misplaced(spec), *_kind_mistakes(spec, now), *mistakes, *_input_mistakes(spec, definition)]
    if mistakes:
        raise invalid(mistakes)
    return rules


def invalid(mistakes: Sequence[Mistake]) -> Refused:
    """Return the refusal of a trigger with mistakes."""
    first = mistakes[0]
    place = ".".join(map(str, first["loc"][1:]))
    shown = f"{place}: {first['msg']}" if place else str(first["msg"])
    return Refused("trigger_invalid", shown if len(mistakes) == 1 else f"{len(mistakes)} mistakes: {shown}", mistakes)


def field_mistake(name: str, message: str, given: Any = None) -> Mistake:
    """Return a mistake in one field of a trigger."""
    return _mistake((name,), message, "value_invalid", given)


def _misplaced(spec: TriggerSpec) -> list[Mistake]:
    own = {*SHARED, *OF_KIND[spec.kind]}
    return [
        _mistake((name,), f"a trigger of kind {spec.kind} has no such field", "extra_forbidden")
        for name in TriggerSpec.__struct_fields__
        if name not in own and getattr(spec, name) is not None
    ]


def _kind_mistakes(spec: TriggerSpec, now: float) -> list[Mistake]:
    if spec.kind == "cron" and spec.cron is None:
        return [_mistake(("cron",), "the field is required", "missing")]
    if spec.kind == "cron":
        try:
            check_fires(spec.calendar(), now)
        except CalendarInvalid as error:
            return [field_mistake(error.field, error.reason, getattr(spec, error.field))]
    if spec.kind == "webhook" and spec.secret and len(spec.secret) < SECRET_CHARS_MIN:
        message = f"a secret has at least {SECRET_CHARS_MIN} characters; make one with `openssl rand -hex 32`"
        return [_mistake(("secret",), message, "value_invalid")]
    if spec.kind == "alert" and spec.statuses == ():
        return [_mistake(("statuses",), "name at least one of firing, resolved", "value_invalid")]
    return []


def _input_mistakes(spec: TriggerSpec, definition: WorkflowDefinition | None) -> list[Mistake]:
    if definition is None:
        version = "" if spec.version is None else f" with a version {spec.version}"
        return [field_mistake("workflow", f'there is no workflow "{spec.workflow}"{version}', spec.workflow)]
    given = spec.input or {}
    found = [
        _mistake(
            ("input", name),
            f'the workflow has no input "{name[:64]}"{_hint(did_you_mean(name, definition.inputs))}',
            "unknown",
        )
        for name in given
        if name not in definition.inputs
    ]
    found += [
        _mistake(("input", name), "the workflow requires this input", "missing")
        for name, schema in definition.inputs.items()
        if name not in given and "default" not in (schema or {})
    ]
    return found


def _mistake(at: Sequence[str | int], message: str, kind: str, given: Any = None) -> Mistake:
    found: Mistake = {"loc": ["body", *at], "msg": message, "type": kind}
    if given is not None:
        found["input"] = given
    return found


def _hint(suggestion: str | None) -> str:
    return f"; {suggestion}" if suggestion else ""


def _unreadable(problem: Problem) -> Mistake:
    found: Mistake = {"loc": ["body", *filter(None, [problem.path])], "msg": problem.message, "type": "document"}
    for name in ("line", "column"):
        if (value := getattr(problem, name)) is not None:
            found[name] = value
    return found
