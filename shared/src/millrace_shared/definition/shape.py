"""Says in the format's words what pydantic finds wrong with the shape of a document."""

import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from millrace_shared.definition.findings import Findings
from millrace_shared.definition.flow import FLOW_CONTROL_KEYS
from millrace_shared.definition.limits import PROBLEMS_MAX
from millrace_shared.definition.locations import Location
from millrace_shared.definition.model import (
    Agent,
    AgentLimits,
    Approval,
    Cache,
    Concurrency,
    Debounce,
    Defaults,
    Group,
    HttpCall,
    Limits,
    PythonCall,
    Repeat,
    Retry,
    Singleton,
    Step,
    Throttle,
    Tool,
    Wait,
    WorkflowCall,
    WorkflowDefinition,
)
from millrace_shared.expressions.paths import type_name
from millrace_shared.expressions.suggest import did_you_mean

_GROUP_DEPTH = 3
"""Keys on the way to a group: `steps.<id>.group`."""

_ID_RULE = "lower-case letters, digits, _ and -, a letter first, at most 64"
_VALUE_CHARS_SHOWN_MAX = 60

# Which model describes the object at a place; `*` stands for any key or index. What is inside of groups is looked up
# as if it stood in the workflow itself.
_MODELS: tuple[tuple[tuple[str, ...], type[BaseModel]], ...] = (
    ((), WorkflowDefinition),
    (("limits",), Limits),
    (("defaults",), Defaults),
    (("defaults", "retry"), Retry),
    (("agents", "*"), Agent),
    (("agents", "*", "limits"), AgentLimits),
    (("agents", "*", "tools", "*"), Tool),
    (("steps", "*"), Step),
    (("steps", "*", "retry"), Retry),
    (("steps", "*", "http"), HttpCall),
    (("steps", "*", "python"), PythonCall),
    (("steps", "*", "wait"), Wait),
    (("steps", "*", "approval"), Approval),
    (("steps", "*", "workflow"), WorkflowCall),
    (("steps", "*", "group"), Group),
    (("steps", "*", "repeat"), Repeat),
    (("steps", "*", "cache"), Cache),
    (("concurrency",), Concurrency),
    (("throttle",), Throttle),
    (("debounce",), Debounce),
    (("singleton",), Singleton),
)


def check_shape(data: Any, findings: Findings) -> WorkflowDefinition | None:
    """Builds the definition, or reports every place where the shape is wrong.

    Returns:
        The definition; None if there are mistakes.
    """
    try:
        return WorkflowDefinition.model_validate(data)
    except ValidationError as error:
        for detail in error.errors(include_url=False)[: PROBLEMS_MAX + 1]:
            _report(detail, _written(data, detail["loc"]), findings)
    return None


def _written(data: Any, location: Location) -> Location:
    """Returns the location as written: `python: "f"` stands for `python: {call: "f"}`, but has no key `call`."""
    for depth, key in enumerate(location):
        if isinstance(data, str):
            return location[:depth]
        if isinstance(data, dict):
            data = data.get(str(key))
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            break
    return location


def _report(detail: ErrorDetails, location: Location, findings: Findings) -> None:
    if location and location[-1] == "[key]":
        location = location[:-1]
        if detail["type"] == "string_pattern_mismatch":
            findings.add(location, f"{_shown(location[-1])} is not an id: {_ID_RULE}", _as_id(str(location[-1])))
            return
    explain = _EXPLANATIONS.get(detail["type"], _as_reported)
    message, suggestion = explain(detail, location)
    findings.add(location, message, suggestion)


Explanation = tuple[str, str | None]


def _as_reported(detail: ErrorDetails, _: Location) -> Explanation:
    return detail["msg"][0].lower() + detail["msg"][1:], None


def _unknown_key(_: ErrorDetails, location: Location) -> Explanation:
    key = str(location[-1])
    model = _model_at(location[:-1])
    if key in FLOW_CONTROL_KEYS and model in (Step, Group):
        hint = "a step has max_parallel" if model is Step else None
        return f"{key} belongs to the workflow as a whole", hint
    if key == "triggers" and model is WorkflowDefinition:
        return "triggers are no part of a definition", "create them beside the workflow that they start"
    known = sorted(field.alias or name for name, field in model.model_fields.items()) if model else []
    guess = did_you_mean(key, known)
    return f"there is no key {_shown(key)} here", guess or (f"keys are {', '.join(known)}" if known else None)


def _model_at(location: Location) -> type[BaseModel] | None:
    while len(location) > _GROUP_DEPTH and location[0] == "steps" and location[_GROUP_DEPTH - 1] == "group":
        location = location[_GROUP_DEPTH:]
    for pattern, model in _MODELS:
        if len(pattern) == len(location) and all(
            part in ("*", key) for part, key in zip(pattern, location, strict=True)
        ):
            return model
    return None


def _missing(_: ErrorDetails, location: Location) -> Explanation:
    hints = {
        "name": "add name: my-workflow",
        "steps": "add steps:",
        "model": "add model: provider:model",
        "message": "add message: what is to be decided",
        "until": "add until: a condition on output",
        "ttl": "add ttl: 1h",
        "limit": "add limit: 1",
        "per": "add per: 1m",
        "delay": "add delay: 30s",
    }
    return "this is required", hints.get(str(location[-1]))


def _not_one_of(detail: ErrorDetails, _: Location) -> Explanation:
    known = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
    if not known:
        return f"{_shown(detail['input'])} is not {detail.get('ctx', {}).get('expected', 'allowed')}", None
    value = detail["input"]
    return f"{_shown(value)} is not one of {', '.join(known)}", did_you_mean(str(value), known)


def _wrong_pattern(detail: ErrorDetails, location: Location) -> Explanation:
    value = str(detail["input"])
    key = location[-1]
    if key == "model":
        return f"{_shown(value)} is not a model", "write provider:model, such as groq:llama-3.1-8b-instant"
    if key in ("call", "python"):
        return f"{_shown(value)} is not a function", "write package.module:function"
    if key == "signal":
        rule = f"{_ID_RULE}; it is written out, without expressions"
        return f"{_shown(value)} is not the name of a signal: {rule}", None if "${{" in value else _as_id(value)
    if location == ("name",) or key == "workflow" or location[-2:] == ("workflow", "name"):
        rule = "lower-case letters, digits, - and _, beginning and ending with a letter or digit"
        return f"{_shown(value)} is not a workflow name: {rule}", _as_id(value)
    return f"{_shown(value)} is not an id: {_ID_RULE}", _as_id(value)


def _wrong_type(what: str) -> Callable[[ErrorDetails, Location], Explanation]:
    def explain(detail: ErrorDetails, location: Location) -> Explanation:
        value = detail["input"]
        hint = None
        if what == "a list" and isinstance(value, str):
            hint = f"write [{value[:_VALUE_CHARS_SHOWN_MAX]}]"
        if what == "text" and isinstance(value, bool | int | float):
            hint = "put it in quotes"
        if what in ("a number", "a whole number") and isinstance(value, str) and value.isdigit():
            hint = "remove the quotes"
        key = location[-1] if location else None
        if key == "python":
            return "a python step names a function", "write python: package.module:function"
        if key == "workflow":
            return "a workflow step names a workflow", "write workflow: name, or workflow: {name: name, version: 1}"
        if key == "singleton":
            return f"true or an object is needed here, and this is {type_name(value)}", None
        return f"{what} is needed here, and this is {type_name(value)}", hint

    return explain


def _bound(words: str, key: str) -> Callable[[ErrorDetails, Location], Explanation]:
    def explain(detail: ErrorDetails, _: Location) -> Explanation:
        bound = detail.get("ctx", {}).get(key)
        return words.format(bound), None

    return explain


_EXPLANATIONS: dict[str, Callable[[ErrorDetails, Location], Explanation]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "literal_error": _not_one_of,
    "string_pattern_mismatch": _wrong_pattern,
    "model_type": _wrong_type("an object"),
    "model_attributes_type": _wrong_type("an object"),
    "dict_type": _wrong_type("an object"),
    "list_type": _wrong_type("a list"),
    "tuple_type": _wrong_type("a list"),
    "string_type": _wrong_type("text"),
    "int_type": _wrong_type("a whole number"),
    "int_from_float": _wrong_type("a whole number"),
    "float_type": _wrong_type("a number"),
    "bool_type": _wrong_type("true or false"),
    "greater_than_equal": _bound("this must be at least {}", "ge"),
    "greater_than": _bound("this must be more than {}", "gt"),
    "less_than_equal": _bound("this must be at most {}", "le"),
    "less_than": _bound("this must be less than {}", "lt"),
    "string_too_long": _bound("this has more than {} characters", "max_length"),
    "string_too_short": _bound("this must have at least {} character", "min_length"),
    "too_long": _bound("there are more than {} of these", "max_length"),
    "too_short": _bound("there must be at least {} of these", "min_length"),
    "finite_number": lambda _detail, _location: ("this must be a finite number", None),
}


def _shown(value: Any) -> str:
    text = str(value)
    cut = text[:_VALUE_CHARS_SHOWN_MAX] + ("..." if len(text) > _VALUE_CHARS_SHOWN_MAX else "")
    return f'"{cut}"' if isinstance(value, str) else cut


def _as_id(text: str) -> str | None:
    """Suggests the nearest id: `Load Data` -> `load-data`."""
    slug = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_0123456789")[:64]
    return f'write "{slug}"' if slug and slug != text else None
