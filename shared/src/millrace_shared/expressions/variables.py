"""Picks out of a scope what a CEL program reads, and nothing else.

CEL copies every variable that it is given, so it gets only the branches that its expression names: of
`steps.search.output.body.total > 0` that one number, however large the body is. What is not read is not
loaded either, if it is claim-checked.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from millrace_shared.expressions.errors import BlobNeeded, ExpressionError
from millrace_shared.expressions.names import Key
from millrace_shared.expressions.paths import Scope, null_below, pointer_token
from millrace_shared.expressions.places import collect_refs
from millrace_shared.expressions.program import Program, Reference
from millrace_shared.values import BlobRef, Payload

_STEP_DEPTH = 2
"""Keys of `steps.<id>.<field>`: less than that is never read alone."""


def variables_of(program: Program, scope: Scope) -> dict[str, Any]:
    """Returns the variables of a program: JSON values by root name.

    Raises:
        ExpressionError: The scope lacks a root that the program reads.
        BlobNeeded: The program reads claim-checked values.
    """
    variables: dict[str, Any] = {}
    needed: set[BlobRef] = set()
    for branch in _branches(program.references):
        if branch.root not in scope:
            raise ExpressionError(program.source, f"{branch.root} has no value here")
        try:
            _copy(scope, branch, variables)
        except BlobNeeded as more:
            needed |= more.refs
    if needed:
        raise BlobNeeded(frozenset(needed))
    return variables


class _Branch(NamedTuple):
    """One branch of a scope that a program reads; `guarded` if only to see whether it has some key."""

    root: str
    keys: tuple[Key, ...]
    guarded: bool


@lru_cache(maxsize=16_384)
def _branches(references: tuple[Reference, ...]) -> tuple[_Branch, ...]:
    """Returns the branches to copy, without those that lie within another.

    The parent of a key that may be missing is read as a whole, so that CEL sees whether it is there.
    """
    guards: dict[tuple[str, tuple[Key, ...]], bool] = {}
    for reference in references:
        least = _STEP_DEPTH if reference.root == "steps" else 0
        guarded = reference.guarded and len(reference.keys) > least
        path = (reference.root, reference.keys[:-1] if guarded else reference.keys)
        guards[path] = guards.get(path, True) and guarded
    return tuple(
        _Branch(root, keys, guarded)
        for (root, keys), guarded in sorted(guards.items(), key=lambda item: len(item[0][1]))
        if not any((root, keys[:length]) in guards for length in range(len(keys)))
    )


def _copy(scope: Scope, branch: _Branch, variables: dict[str, Any]) -> None:
    """Copies one branch, as far as it exists: what is missing is CEL's to report."""
    root, keys, guarded = branch
    value = scope[root]
    place: tuple[Key, ...] = (root,)
    for depth, key in enumerate(keys):
        if value is None and null_below(root, keys, depth, scope):
            place = (root, *keys)
            break
        if isinstance(value, BlobRef):
            raise BlobNeeded(frozenset((value,)))
        if isinstance(value, Payload):
            value = _spread(value)
        if not isinstance(value, Mapping) or not isinstance(key, str):
            break
        if key not in value:
            value = {}
            break
        value = value[key]
        place = (*place, key)
    if value is None and guarded and null_below(root, keys, len(keys), scope):
        value = {}
    refs: dict[str, BlobRef] = {}
    value = collect_refs(value, "", refs)
    if refs:
        raise BlobNeeded(frozenset(refs.values()))
    _put(variables, place, value)


def _put(target: dict[str, Any], place: tuple[Key, ...], value: Any) -> None:
    for key in place[:-1]:
        target = target.setdefault(str(key), {})
    last = str(place[-1])
    if not (value == {} and isinstance(target.get(last), dict)):
        target[last] = value


def _spread(payload: Payload) -> Any:
    """Returns a payload's data with its references standing in it, where the path can meet them."""
    data = payload.data
    for pointer, ref in payload.refs.items():
        data = _planted(data, pointer.split("/")[1:], ref)
    return data


def _planted(data: Any, tokens: list[str], ref: BlobRef) -> Any:
    if not tokens:
        return ref
    if isinstance(data, list):
        position = int(tokens[0])
        return [_planted(item, tokens[1:], ref) if index == position else item for index, item in enumerate(data)]
    return {
        key: _planted(item, tokens[1:], ref) if pointer_token(key) == tokens[0] else item for key, item in data.items()
    }
