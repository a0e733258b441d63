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
