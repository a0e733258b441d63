"""Templates: JSON values whose strings may hold `${{ expression }}`.

An expression that is a whole string keeps its type: `"${{ inputs.rows }}"` becomes the list. Inside a
longer string it is rendered as text: strings as they are, null as nothing, numbers and booleans as in JSON,
objects and lists as compact JSON. `$${{` stands for a literal `${{`.

A template resolves to three things: the data, and *beside* it the places that belong to claim-checked
values and to secrets. Neither can be forged by what an input or a step's output contains, because neither
is written in the data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from millrace_shared.expressions.errors import (
    BlobNeeded,
    ExpressionError,
    ExpressionInvalid,
    Location,
    Misplaced,
    TemplateInvalid,
)
from millrace_shared.expressions.expression import Expression, compile_expression
from millrace_shared.expressions.lexer import end_of_expression
from millrace_shared.expressions.limits import TEMPLATE_DEPTH_MAX, TEMPLATE_EXPRESSIONS_MAX, TEXT_BYTES_MAX
from millrace_shared.expressions.paths import Scope, pointer_token
from millrace_shared.expressions.places import collect_refs
from millrace_shared.expressions.program import Evaluate, Reference
from millrace_shared.values import BlobRef, Payload

SecretText = tuple[str, ...]
"""Text with secrets: text at even positions, names of secrets at odd ones: `("Bearer ", "token", "")`."""


class Resolved(NamedTuple):
    """A template's value in a scope.

    Attributes:
        data: The JSON value; null at the places that `refs` and `secrets` name. Parts of the scope are
            shared, not
            copied: do not change them.
        refs: JSON pointer -> claim-checked value that belongs there.
        secrets: JSON pointer -> text that belongs there once someone who may has put the secrets in.
    """

    data: Any
    refs: dict[str, BlobRef]
    secrets: dict[str, SecretText]


class Use(NamedTuple):
    """One expression of a template, and where it stands."""

    location: Location
    expression: Expression


class _Resolution:
    """What is gathered while a template is resolved."""

    __slots__ = ("evaluate", "needed", "refs", "scope", "secrets")

    def __init__(self, scope: Scope, evaluate: Evaluate) -> None:
        self.scope = scope
        self.evaluate = evaluate
        self.refs: dict[str, BlobRef] = {}
        self.secrets: dict[str, SecretText] = {}
        self.needed: set[BlobRef] = set()

    def value(self, expression: Expression) -> Any:
        try:
            return expression.value(self.scope, self.evaluate)
        except BlobNeeded as more:
            self.needed |= more.refs
            return None


class _Literal:
    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def resolve(self, _: _Resolution) -> Any:
        return self._value


class _Whole:
    """A string that is one expression: keeps the type of its value."""

    __slots__ = ("_expression", "_pointer")

    def __init__(self, expression: Expression, pointer: str) -> None:
        self._expression = expression
        self._pointer = pointer

    def resolve(self, resolution: _Resolution) -> Any:
        value = resolution.value(self._expression)
        kind = type(value)
        if kind is str or kind is int or value is None or kind is float or kind is bool:
            return value
        return collect_refs(value, self._pointer, resolution.refs)


class _Text:
    """A string with expressions inside: strings and expressions in turn."""

    __slots__ = ("_parts", "_source")

    def __init__(self, parts: tuple[str | Expression, ...], source: str) -> None:
        self._parts = parts
        self._source = source

    def resolve(self, resolution: _Resolution) -> Any:
        pieces = [
            part if isinstance(part, str) else _as_text(resolution.value(part), resolution.needed)
            for part in self._parts
        ]
        if sum(map(len, pieces)) > TEXT_BYTES_MAX:
            reason = f"the text would be longer than {TEXT_BYTES_MAX} characters; pass the value whole instead"
            raise ExpressionError(self._source[:100], reason)
        return "".join(pieces)


class _Secret:
    """A string with secrets inside: the runner assembles its text, outside of anything that is stored."""

    __slots__ = ("_parts", "_pointer")

    def __init__(self, parts: tuple[str | Expression, ...], pointer: str) -> None:
        self._parts = parts
        self._pointer = pointer

    def resolve(self, resolution: _Resolution) -> Any:
        segments = [""]
        for part in self._parts:
            if isinstance(part, str):
                segments[-1] += part
            elif _secret_name(part) is not None:
                segments += [_secret_name(part) or "", ""]
            else:
                segments[-1] += _as_text(resolution.value(part), resolution.needed)
        resolution.secrets[self._pointer] = tuple(segments)


class _Object:
    __slots__ = ("_items",)

    def __init__(self, items: tuple[tuple[str, "_Node"], ...]) -> None:
        self._items = items

    def resolve(self, resolution: _Resolution) -> Any:
        return {key: node.resolve(resolution) for key, node in self._items}


class _Array:
    __slots__ = ("_items",)

    def __init__(self, items: tuple["_Node", ...]) -> None:
        self._items = items

    def resolve(self, resolution: _Resolution) -> Any:
        return [node.resolve(resolution) for node in self._items]


_Node = _Literal | _Whole | _Text | _Secret | _Object | _Array


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template.

    Attributes:
        uses: Its expressions in document order, with their places.
    """

    uses: tuple[Use, ...]
    _root: _Node

    @property
    def references(self) -> tuple[Reference, ...]:
        """Everything that the expressions read."""
        return tuple(reference for use in self.uses for reference in use.expression.references)

    @property
    def step_ids(self) -> frozenset[str]:
        """Steps whose output, status or error is read."""
        return frozenset(step for reference in self.references if (step := reference.step_id) is not None)

    def resolve(self, scope: Scope, evaluate: Evaluate) -> Resolved:
        """Puts values in place of expressions.

        Args:
            scope: Values by root name; see `paths.Scope`. Secrets are not looked up.
            evaluate: Evaluates CEL; never called for plain paths.

        Raises:
            ExpressionError: An expression has no value here.
            BlobNeeded: Expressions look into claim-checked values; has every ref that is known to be needed.
        """
        resolution = _Resolution(scope, evaluate)
        data = self._root.resolve(resolution)
        if resolution.needed:
            raise BlobNeeded(frozenset(resolution.needed))
        return Resolved(data, resolution.refs, resolution.secrets)


def compile_template(value: Any) -> Template:
    """Compiles a JSON value with expressions in its strings.

    Raises:
        TemplateInvalid: Some expressions are wrong; has all of them with their places.
    """
    uses: list[Use] = []
    mistakes: list[Misplaced] = []
    root = _compile(value, (), "", uses, mistakes)
    if mistakes:
        raise TemplateInvalid(mistakes)
    return Template(tuple(uses), root)


def _compile(value: Any, at: Location, pointer: str, uses: list[Use], mistakes: list[Misplaced]) -> _Node:
    if len(at) > TEMPLATE_DEPTH_MAX:
        mistakes.append(Misplaced(at, ExpressionInvalid("", f"nested deeper than {TEMPLATE_DEPTH_MAX} levels")))
        return _Literal(None)
    if isinstance(value, str):
        return _compile_text(value, at, pointer, uses, mistakes)
    count = len(uses)
    node: _Node
    if isinstance(value, dict):
        items = []
        for key, item in value.items():
            if isinstance(key, str) and "${{" in key:
                error = ExpressionInvalid(key, "keys cannot hold expressions, only values can")
                mistakes.append(Misplaced((*at, key), error))
            below = _compile(item, (*at, key), f"{pointer}/{pointer_token(key)}", uses, mistakes)
            items.append((key, below))
        node = _Object(tuple(items))
    elif isinstance(value, list | tuple):
        node = _Array(
            tuple(
                _compile(item, (*at, position), f"{pointer}/{position}", uses, mistakes)
                for position, item in enumerate(value)
            )
        )
    else:
        return _Literal(value)
    # A subtree without expressions is shared as it is, unless text in it was unescaped.
    return node if len(uses) > count or _has_escapes(value) else _Literal(value)


def _has_escapes(value: Any) -> bool:
    if isinstance(value, str):
        return "$${{" in value
    if isinstance(value, dict):
        return any(_has_escapes(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_has_escapes(item) for item in value)


def _compile_text(text: str, at: Location, pointer: str, uses: list[Use], mistakes: list[Misplaced]) -> _Node:
    if "${{" not in text:
        return _Literal(text)
    parts: list[str | Expression] = []
    if len(uses) > TEMPLATE_EXPRESSIONS_MAX:
        reason = f"there are over {TEMPLATE_EXPRESSIONS_MAX} expressions in one value"
        mistakes.append(Misplaced(at, ExpressionInvalid("", reason, "split it over several steps")))
        return _Literal(None)
    try:
        parts.extend(compile_expression(piece[1]) if isinstance(piece, tuple) else piece for piece in _split(text))
    except ExpressionInvalid as error:
        mistakes.append(Misplaced(at, error))
        return _Literal(None)
    expressions = [part for part in parts if isinstance(part, Expression)]
    uses.extend(Use(at, expression) for expression in expressions)
    if not expressions:
        return _Literal("".join(part for part in parts if isinstance(part, str)))
    return _node_of(tuple(parts), text, pointer)


def _node_of(parts: tuple[str | Expression, ...], text: str, pointer: str) -> _Node:
    """Returns the node of a string that holds at least one expression."""
    if any(isinstance(part, Expression) and _secret_name(part) is not None for part in parts):
        return _Secret(parts, pointer)
    if len(parts) == 1 and isinstance(parts[0], Expression):
        return _Whole(parts[0], pointer)
    return _Text(parts, text)


def _split(text: str) -> Iterator[str | tuple[str, str]]:
    """Yields plain text as strings, and expressions as `("expression", text)`."""
    position = 0
    while (found := text.find("${{", position)) >= 0:
        if found > position and text[found - 1] == "$":
            yield text[position : found - 1] + "${{"
            position = found + 3
            continue
        if found > position:
            yield text[position:found]
        end = end_of_expression(text, found + 3)
        yield ("expression", text[found + 3 : end])
        position = end + 2
    if position < len(text):
        yield text[position:]


def _secret_name(expression: Expression) -> str | None:
    path = expression.path
    return str(path.keys[0]) if path is not None and path.root == "secrets" else None


def _as_text(value: Any, needed: set[BlobRef]) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, Payload) and not value.refs:
        return _as_text(value.data, needed)
    refs: dict[str, BlobRef] = {}
    value = collect_refs(value, "", refs)
    if refs:
        needed.update(refs.values())
        return ""
    return msgspec.json.encode(value).decode()
