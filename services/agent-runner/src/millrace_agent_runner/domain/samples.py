"""A value that satisfies a JSON Schema, the same one each time: for models that are not models.

It covers what people write for an answer: types, enums, required and optional properties, bounds, local references,
and combinations. What it cannot satisfy (a `pattern`, a `not`) it fills in as well as it can; the caller judges the
value by the schema as it would any other.
"""

from __future__ import annotations

import math
from typing import Any

DEPTH_MAX = 20
OPTIONAL_DEPTH_MAX = 5
"""What may be left out is left out below this, so that a schema that refers to itself comes to an end."""
ITEMS_MAX = 50
_FORMATS = {
    "date": "2026-01-15",
    "date-time": "2026-01-15T10:00:00Z",
    "time": "10:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "hostname": "example.com",
}


def sample(schema: Any, text: str) -> Any:
    """Return a value for `schema`; free texts say `text`."""
    return _Sampler(schema, text).value(schema, 0)


class _Sampler:
    def __init__(self, root: Any, text: str) -> None:
        self._root = root
        self._text = text

    def value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > DEPTH_MAX:
            return None
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        simpler = self._simplified(schema)
        return self._typed(schema, depth) if simpler is None else self.value(simpler, depth + 1)

    def _simplified(self, schema: dict[str, Any]) -> Any:
        """Resolve one reference or combination; None when there is none."""
        if "$ref" in schema:
            return self._at(schema["$ref"])
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return _merged([_without(schema, key), schema[key][0]])
        if schema.get("allOf"):
            return _merged([_without(schema, "allOf"), *schema["allOf"]])
        return None

    def _typed(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema, depth)
        if kind == "array":
            wanted = 1 if depth < OPTIONAL_DEPTH_MAX and schema.get("maxItems", 1) else 0
            count = min(max(schema.get("minItems", 0), wanted), ITEMS_MAX)
            return [self.value(schema.get("items", {}), depth + 1) for _ in range(count)]
        if kind == "integer":
            return math.ceil(_number(schema))
        if kind == "number":
            return _number(schema)
        if kind == "boolean":
            return True
        return None if kind == "null" else self._string(schema)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        names = [*properties, *(name for name in schema.get("required", []) if name not in properties)]
        required = set(schema.get("required", []))
        return {
            name: self.value(properties.get(name, {}), depth + 1)
            for name in names
            if name in required or depth < OPTIONAL_DEPTH_MAX
        }

    def _string(self, schema: dict[str, Any]) -> str:
        text = _FORMATS.get(schema.get("format", ""), self._text)
        text = text.ljust(min(schema.get("minLength", 0), 10_000), ".")
        return text[: schema["maxLength"]] if "maxLength" in schema else text

    def _at(self, reference: Any) -> Any:
        found = self._root
        if not isinstance(reference, str) or not reference.startswith("#"):
            return {}
        for token in reference[1:].split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~")
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return found


def _number(schema: dict[str, Any]) -> float:
    whole = schema.get("type") == "integer"
    low = schema.get("minimum")
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + (1 if whole else 0.001)
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    value: float = low if low is not None else 0
    if low is not None and high is not None and not whole:
        value = low + (high - low) / 2
    elif low is None and high is not None:
        value = min(0, high - 1)
    step = schema.get("multipleOf")
    return math.ceil(value / step) * step if step else value


def _without(schema: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: part for name, part in schema.items() if name != key}


def _merged(schemas: list[Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for schema in schemas:
        if not isinstance(schema, dict):
            continue
        properties = {**merged.get("properties", {}), **schema.get("properties", {})}
        required = [*merged.get("required", []), *schema.get("required", [])]
        merged = {**merged, **schema}
        if properties:
            merged["properties"] = properties
        if required:
            merged["required"] = required
    return merged
