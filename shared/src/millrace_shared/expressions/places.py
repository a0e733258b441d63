"""Values with claim-checked parts: taking the references out of the data, and putting loaded values in."""

from collections.abc import Mapping
from typing import Any

from millrace_shared.expressions.paths import pointer_token
from millrace_shared.values import BlobRef, Payload


def collect_refs(value: Any, pointer: str, refs: dict[str, BlobRef]) -> Any:
    """Takes the references out of a value.

    Args:
        value: A value of a scope.
        pointer: Where the value will stand, as a JSON pointer.
        refs: Receives every reference under its place.

    Returns:
        The JSON value with null where a reference stood. What holds no reference is shared, not copied.
    """
    kind = type(value)
    if kind is dict:
        return _object(value, pointer, refs)
    if kind is list:
        return _array(value, pointer, refs)
    if kind is BlobRef:
        refs[pointer] = value
        return None
    if kind is Payload:
        for place, ref in value.refs.items():
            refs[pointer + place] = ref
        return value.data
    if isinstance(value, Mapping):
        return _object(dict(value), pointer, refs)
    return value


_PLAIN = frozenset({str, int, float, bool, type(None)})


def _object(value: dict[str, Any], pointer: str, refs: dict[str, BlobRef]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, item in value.items():
        if type(item) in _PLAIN:
            continue
        below = collect_refs(item, f"{pointer}/{pointer_token(key)}", refs)
        if below is not item:
            changed[key] = below
    return {**value, **changed} if changed else value


def _array(value: list[Any], pointer: str, refs: dict[str, BlobRef]) -> list[Any]:
    changed: dict[int, Any] = {}
    for position, item in enumerate(value):
        if type(item) in _PLAIN:
            continue
        below = collect_refs(item, f"{pointer}/{position}", refs)
        if below is not item:
            changed[position] = below
    if not changed:
        return value
    return [changed.get(position, item) for position, item in enumerate(value)]
