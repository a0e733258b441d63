"""JSON Schemas that authors write, for inputs and outputs: checked when saved, applied when run.

Draft 2020-12, with what could make a schema dangerous taken out: `$ref` only points into the same schema
and never in a circle, size is bounded also after references are followed, patterns are RE2 (linear
time), not Python's, and `uniqueItems` is linear.
"""

import json
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry

from millrace_shared.definition.limits import JSON_SCHEMA_NODES_MAX
from millrace_shared.definition.locations import Location, spell_location
from millrace_shared.expressions.regex import RegexInvalid, compile_regex

EXPANDED_NODES_MAX = 10 * JSON_SCHEMA_NODES_MAX
"""Objects and lists of a schema once every `$ref` is replaced by what it names."""

PATTERN_CHARS_MAX = 512
_REMOTE_KEYS = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$vocabulary")


class SchemaMistake(ValueError):
    """A JSON Schema is not one, or not a bounded one.

    Attributes:
        location: Where in the schema.
    """

    def __init__(self, location: Location, message: str) -> None:
        super().__init__(message)
        self.location = location


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not compile_regex(pattern)(instance):
        yield ValidationError(f"{json.dumps(instance)[:80]} does not match {json.dumps(pattern)}")


def _unique_items(_: Any, unique: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    """The library compares each item with each other one unless they can be sorted: hours for a list of objects."""
    if unique and isinstance(instance, list) and len({_identity(item) for item in instance}) < len(instance):
        yield ValidationError(f"{json.dumps(instance)[:80]} has non-unique elements")


def _identity(value: Any) -> Hashable:
    """Returns what only equal JSON values have in common: 1 and 1.0 are equal, 1 and true are not."""
    if isinstance(value, bool):
        return (bool, value)
    if isinstance(value, dict):
        return (dict, frozenset((key, _identity(item)) for key, item in value.items()))
    if isinstance(value, list):
        return (list, tuple(map(_identity, value)))
    return value if value is None else (str if isinstance(value, str) else float, value)


_Validator = extend(Draft202012Validator, {"pattern": _pattern, "uniqueItems": _unique_items})  # type: ignore[no-untyped-call]  # not typed


def validator(schema: Mapping[str, Any]) -> Draft202012Validator:
    """Returns a validator for a schema that `check_schema` accepts. Compiled ones are kept."""
    return validator_of(json.dumps(schema, sort_keys=True))


@lru_cache(maxsize=1_024)
def validator_of(text: str) -> Draft202012Validator:
    """Returns a validator for JSON text. A `$ref` that leads out of the schema is an error, not a download."""
    nothing: Registry[Any] = Registry()
    made: Draft202012Validator = _Validator(json.loads(text), registry=nothing)
    return made


def check_schema(schema: Any) -> None:
    """Checks that a value is a JSON Schema that is safe to apply.

    Raises:
        SchemaMistake: It is not; says where and why.
    """
    mistake = _check(json.dumps(schema))
    if mistake is not None:
        raise SchemaMistake(*mistake)


@lru_cache(maxsize=4_096)
def _check(text: str) -> tuple[Location, str] | None:
    """Generated workflows repeat one schema in thousands of steps, so the answer is kept by the schema's text."""
    schema = json.loads(text)
    try:
        _Walk(schema).check()
        Draft202012Validator.check_schema(schema)
    except SchemaMistake as mistake:
        return mistake.location, str(mistake)
    except SchemaError as error:
        return tuple(error.absolute_path), f"this is not JSON Schema: {error.message[:200]}"
    return None


class _Walk:
    """Visits every part of a schema, following references to count what they expand to."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._nodes = 0
        self._expanded: dict[str, int] = {}
        self._open: list[str] = []

    def check(self) -> None:
        if self._count(self._schema, ()) > EXPANDED_NODES_MAX:
            raise SchemaMistake((), f"with its $refs followed, the schema has over {EXPANDED_NODES_MAX} parts")

    def _count(self, part: Any, at: Location) -> int:
        """Returns the number of objects and lists below a part, references included."""
        if isinstance(part, list):
            self._visit(at)
            return 1 + sum(self._count(item, (*at, index)) for index, item in enumerate(part))
        if not isinstance(part, dict):
            return 0
        self._visit(at)
        total = 1
        for key, value in part.items():
            if key in _REMOTE_KEYS and at[-1:] != ("properties",):
                raise SchemaMistake((*at, key), f"{key} is not supported; define parts in $defs and use $ref")
            if key == "$ref" and isinstance(value, str):
                total += self._count_reference(value, (*at, key))
            elif key in ("enum", "const", "default", "examples") and at[-1:] != ("properties",):
                total += 1
            else:
                self._check_patterns(key, value, (*at, key))
                total += self._count(value, (*at, key))
            if total > EXPANDED_NODES_MAX:
                return total
        return total

    def _visit(self, at: Location) -> None:
        self._nodes += 1
        if self._nodes > JSON_SCHEMA_NODES_MAX:
            raise SchemaMistake(at[:2], f"the schema has over {JSON_SCHEMA_NODES_MAX} objects and lists")

    def _count_reference(self, target: str, at: Location) -> int:
        if not target.startswith("#/$defs/"):
            raise SchemaMistake(at, f'"{target[:80]}" is not in this schema; $ref must begin with #/$defs/')
        if target in self._open:
            raise SchemaMistake(at, f'"{target[:80]}" refers to itself; recursive schemas are not supported')
        if target not in self._expanded:
            part = self._schema
            for token in target[2:].split("/"):
                key = token.replace("~1", "/").replace("~0", "~")
                if not isinstance(part, dict) or key not in part:
                    raise SchemaMistake(at, f'there is no "{target[:80]}" in this schema')
                part = part[key]
            self._open.append(target)
            self._expanded[target] = self._count(part, at)
            self._open.pop()
        return self._expanded[target]

    def _check_patterns(self, key: str, value: Any, at: Location) -> None:
        if at[-2:-1] == ("properties",):
            return
        if key == "patternProperties":
            raise SchemaMistake(at, "patternProperties is not supported; use propertyNames with a pattern")
        if key == "pattern" and isinstance(value, str):
            if len(value) > PATTERN_CHARS_MAX:
                raise SchemaMistake(at, f"the pattern has over {PATTERN_CHARS_MAX} characters")
            try:
                compile_regex(value)
            except RegexInvalid as error:
                raise SchemaMistake(at, str(error)) from None


def explain(error: ValidationError) -> tuple[Location, str]:
    """Returns where in the value a schema is not met, and how, in one line."""
    location: Location = tuple(error.absolute_path)
    message = error.message if len(error.message) <= 300 else error.message[:300] + "..."  # noqa: PLR2004
    return location, message


def mistakes_of(schema: Mapping[str, Any], value: Any, at_most: int = 20) -> list[tuple[str, str]]:
    """Returns what is wrong with a value, as (place, message), in a stable order.

    Args:
        schema: A schema that `check_schema` accepts.
        value: A JSON value.
        at_most: Mistakes to return.
    """
    found = []
    for error in validator(schema).iter_errors(value):
        location, message = explain(error)
        found.append((spell_location(location), message))
        if len(found) >= at_most:
            break
    return sorted(found)
