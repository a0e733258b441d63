"""Plain paths such as `steps.load.output.rows[0].name`: the common expression, resolved without any engine.

Step ids may hold hyphens here (`steps.load-all.output`). Other keys that are no plain words are written in
brackets: `inputs["first name"]`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from millrace_shared.expressions.errors import BlobNeeded, ExpressionError
from millrace_shared.expressions.names import Key
from millrace_shared.expressions.suggest import did_you_mean
from millrace_shared.values import BlobRef, Payload

Scope = Mapping[str, Any]
"""Root name -> value. Mappings are read lazily, key by key, so a caller may load only what is asked for.

`steps` maps ids to mappings with `output`, `status` and `error`. A value anywhere may be a `BlobRef`
(claim-checked) or a `Payload` (data with claim-checked parts).
"""

NULL_BELOW = frozenset({"skipped", "failed", "timeout", "cancelled"})
"""A step with one of these statuses and no output has null at every path below its output, too."""

KEYS_SHOWN_MAX = 10

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_HEAD = re.compile(rf"\s*(?:(steps)\.([a-z][a-z0-9_-]*)|({_NAME}))")
_NEXT = re.compile(
    rf"""\.({_NAME}) | \[\s*(\d{{1,9}})\s*\] | \[\s*"([^"\\\n]*)"\s*\] | \[\s*'([^'\\\n]*)'\s*\]""",
    re.VERBOSE,
)
_WORDS_OF_CEL = frozenset({"true", "false", "null", "in"})


@dataclass(frozen=True, slots=True)
class Path:
    """A path: its text, its first name, and the keys below that."""

    source: str
    root: str
    keys: tuple[Key, ...]


def parse_path(text: str) -> Path | None:
    """Reads a plain path; returns None if the text is some other expression."""
    head = _HEAD.match(text)
    if head is None:
        return None
    keys: list[Key] = []
    root = head.group(1) or head.group(3)
    if head.group(2):
        keys.append(head.group(2))
    position = head.end()
    end = len(text.rstrip())
    while position < end:
        part = _NEXT.match(text, position)
        if part is None:
            return None
        name, index, double, single = part.groups()
        keys.append(int(index) if index is not None else next(k for k in (name, double, single) if k is not None))
        position = part.end()
    if root in _WORDS_OF_CEL:
        return None
    return Path(text.strip(), root, tuple(keys))


def lookup(path: Path, scope: Scope) -> Any:
    """Finds the value at a path.

    Returns:
        The value itself, not a copy. A claim-checked value comes as its `BlobRef`, and a value with
        claim-checked parts as a `Payload`.

    Raises:
        ExpressionError: A key does not exist; the message lists those that do.
        BlobNeeded: The path leads into a claim-checked value.
    """
    value = _child(scope, path.root, path, -1)
    keys = path.keys
    for depth in range(len(keys)):
        if value is None and null_below(path.root, keys, depth, scope):
            return None
        value = _child(value, keys[depth], path, depth)
    return value


def null_below(root: str, keys: tuple[Key, ...], depth: int, scope: Scope) -> bool:
    """Tells whether null at a depth of a path has null below it, too.

    So it is with what is not there: an error that did not occur, an output that never came, an iteration before the
    first. Any other null is a value, and has nothing below it.
    """
    if root == "previous":
        return scope.get("iteration") == 1
    if root != "steps" or depth < 2:  # noqa: PLR2004  # steps.<id>.<field>
        return False
    return keys[1] == "error" or scope["steps"][keys[0]].get("status") in NULL_BELOW


def _child(value: Any, key: Key, path: Path, depth: int) -> Any:
    kind = type(value)
    if kind is dict:
        try:
            return value[key]
        except KeyError:
            raise _missing(value, key, path, depth) from None
    if kind is list:
        if isinstance(key, int) and key < len(value):
            return value[key]
        raise _missing(value, key, path, depth)
    if kind is BlobRef:
        raise BlobNeeded(frozenset((value,)))
    if kind is Payload:
        return _child_of_payload(value, key, path, depth)
    if isinstance(value, Mapping):
        try:
            return value[key]
        except KeyError:
            raise _missing(value, key, path, depth) from None
    raise _missing(value, key, path, depth)


def _child_of_payload(payload: Payload, key: Key, path: Path, depth: int) -> Any:
    if not payload.refs:
        return _child(payload.data, key, path, depth)
    whole = payload.refs.get("")
    if whole is not None:
        raise BlobNeeded(frozenset((whole,)))
    data = _child(payload.data, key, path, depth)
    prefix = "/" + pointer_token(key)
    if prefix in payload.refs:
        return payload.refs[prefix]
    below = {pointer[len(prefix) :]: ref for pointer, ref in payload.refs.items() if pointer.startswith(prefix + "/")}
    return Payload(data, below) if below else data


def pointer_token(key: Key) -> str:
    """Returns a key as one token of a JSON pointer (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


def spell(root: str, keys: tuple[Key, ...]) -> str:
    """Returns a path as people write it."""
    text = root
    for key in keys:
        plain = isinstance(key, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", key)
        text += f".{key}" if plain else f"[{msgspec.json.encode(key).decode()}]"
    return text


def _missing(value: Any, key: Key, path: Path, depth: int) -> ExpressionError:
    if depth < 0:
        return ExpressionError(path.source, f"{path.root} has no value here")
    place = spell(path.root, path.keys[:depth])
    if isinstance(value, list):
        what = f"has {len(value)} items, and no [{key}]" if isinstance(key, int) else f'is a list, and has no "{key}"'
        return ExpressionError(path.source, f"{place} {what}")
    if not isinstance(value, Mapping):
        return ExpressionError(path.source, f'{place} is {type_name(value)}, and has no "{key}"')
    known = [str(name) for name in value][: KEYS_SHOWN_MAX + 1]
    shown = ", ".join(known[:KEYS_SHOWN_MAX]) + (", ..." if len(known) > KEYS_SHOWN_MAX else "")
    guess = did_you_mean(str(key), [str(name) for name in value])
    hint = f"; {guess}" if guess else ""
    return ExpressionError(path.source, f'{place} has no "{key}"; it has {shown or "no keys"}{hint}')


def type_name(value: Any) -> str:
    """Returns what kind of JSON value this is, with its article."""
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), "an object")
