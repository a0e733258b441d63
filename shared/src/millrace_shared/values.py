"""Values that travel between steps, and the references that stand in for the large ones.

References are kept *beside* the data, never inside it: whatever a user's data looks like, it cannot be
mistaken for a reference, so it cannot make the engine read a blob that belongs to someone else.
"""

from typing import Any

import msgspec


class BlobRef(msgspec.Struct, frozen=True):
    """A claim check: the address of a value that is too large for the log.

    Attributes:
        sha256: Content hash of the stored bytes, lower-case hex; also the blob's key.
        size_bytes: Length of the stored bytes.
    """

    sha256: str
    size_bytes: int


class Payload(msgspec.Struct, frozen=True, omit_defaults=True):
    """A JSON value, some parts of which may be claim-checked.

    Attributes:
        data: The JSON value; null at every place that `refs` names.
        refs: JSON pointer (RFC 6901) of the place in `data` -> the blob that belongs there; `""` is the whole.
    """

    data: Any = None
    refs: dict[str, BlobRef] = {}


def put_at(data: Any, pointer: str, value: Any) -> Any:
    """Returns `data` with `value` at a JSON pointer, copying only the containers on the way.

    Raises:
        LookupError, TypeError, ValueError: `data` has no such place, or `pointer` is none.
    """
    if pointer == "":
        return value
    if not pointer.startswith("/"):
        raise ValueError(f"{pointer!r} is not a JSON pointer")
    token, deeper, rest = pointer[1:].partition("/")
    below = f"/{rest}" if deeper else ""  # "/a/" leads to the member "" of `a`
    name = token.replace("~1", "/").replace("~0", "~")
    if isinstance(data, list):
        items = list(data)
        items[int(name)] = put_at(items[int(name)], below, value)
        return items
    members = dict(data)
    members[name] = put_at(members[name], below, value)
    return members


def is_null_at(data: Any, pointer: str) -> bool:
    """Returns whether `data` has null at a JSON pointer. False where it has no such place."""
    if pointer == "":
        return data is None
    token, _, rest = pointer.removeprefix("/").partition("/")
    name = token.replace("~1", "/").replace("~0", "~")
    if isinstance(data, list):
        inside = data[int(name)] if name.isdecimal() and int(name) < len(data) else _NOWHERE
    else:
        inside = data.get(name, _NOWHERE) if isinstance(data, dict) else _NOWHERE
    deeper = "/" in pointer.removeprefix("/")
    return inside is not _NOWHERE and is_null_at(inside, f"/{rest}" if deeper else "")


_NOWHERE = object()
