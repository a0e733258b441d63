"""Checks an execution's input against what the workflow declares, and fills in defaults."""

from typing import Any

from millrace_shared.definition.errors import DefinitionError
from millrace_shared.definition.locations import Location
from millrace_shared.definition.model import JsonSchema, WorkflowDefinition
from millrace_shared.definition.schemas import explain, validator
from millrace_shared.expressions.suggest import did_you_mean

PROBLEMS_MAX = 100
"""Problems reported at once."""

VALUE_CHARS_SHOWN_MAX = 200


class InputInvalid(DefinitionError):
    """An execution's input does not fit its workflow.

    Attributes:
        problems: One mapping for each, with `loc` (`["input", name, ...]`), `msg`, `type` (`missing`, `unknown`, or the
            JSON Schema keyword that is not met) and `input` (the value, cut when it is long).
    """

    def __init__(self, problems: list[dict[str, Any]]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in problems[:5]))
        self.problems = problems


def complete_input(definition: WorkflowDefinition, given: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the input that an execution starts with: what was given, and defaults for the rest.

    Args:
        definition: The workflow.
        given: Values by input name; None is the same as none at all.

    Raises:
        InputInvalid: Inputs are unknown, missing, or do not fit their schemas; has all problems.
    """
    given = given or {}
    problems = [_unknown(definition, name, value) for name, value in given.items() if name not in definition.inputs]
    complete: dict[str, Any] = {}
    for name, schema in definition.inputs.items():
        if name in given and not _counts_as_absent(given[name], schema):
            complete[name] = given[name]
            problems.extend(_mistakes(name, schema, given[name]))
        elif "default" in schema:
            complete[name] = schema["default"]
        else:
            message = "this input is required"
            problems.append({"loc": ["input", name], "msg": message, "type": "missing", "input": None})
    if problems:
        raise InputInvalid(problems[:PROBLEMS_MAX])
    return complete


def _counts_as_absent(value: Any, schema: JsonSchema) -> bool:
    """Null stands for an input that is not given, unless its schema says that null is a value."""
    return value is None and not validator(schema).is_valid(None)


def _unknown(definition: WorkflowDefinition, name: str, value: Any) -> dict[str, Any]:
    known = ", ".join(list(definition.inputs)[:20]) or "none"
    hint = did_you_mean(name, definition.inputs) or f"inputs are {known}"
    message = f'the workflow has no input "{name[:64]}"; {hint}'
    return {"loc": ["input", name[:64]], "msg": message, "type": "unknown", "input": _shown(value)}


def _mistakes(name: str, schema: JsonSchema, value: Any) -> list[dict[str, Any]]:
    found = []
    for error in validator(schema).iter_errors(value):
        location, message = explain(error)
        place: Location = ("input", name, *location)
        kind = str(error.validator)
        found.append({"loc": list(place), "msg": message, "type": kind, "input": _shown(error.instance)})
        if len(found) >= PROBLEMS_MAX:
            break
    return found


def _shown(value: Any) -> Any:
    """Returns a value as it is if it is short, else the beginning of its text."""
    text = str(value)
    return value if len(text) <= VALUE_CHARS_SHOWN_MAX else text[:VALUE_CHARS_SHOWN_MAX] + "..."
