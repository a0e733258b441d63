"""Claim-check blobs: values too large for a message are kept here, under their workspace and content hash.

One API (obstore) for a local directory, S3, GCS and Azure. A blob is immutable and content-addressed, so writing it
twice is harmless. The workspace is part of the key: a reference is only ever resolved within its own workspace.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import obstore
from obstore.store import LocalStore, from_url

from millrace_shared.errors import MessageInvalid, RetryableError, ValueTooLarge
from millrace_shared.values import BlobRef, Payload, put_at

INLINE_BYTES_MAX = 64 * 1024
"""A value whose JSON is larger than this goes by claim check."""
VALUE_BYTES_MAX = 64 * 1024 * 1024
"""A value whose JSON is larger than this is refused."""
CACHE_BYTES_MAX = 32 * 1024 * 1024

_WORKSPACE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobUnavailable(RetryableError):
    """The blob store did not answer, or does not have the blob (yet)."""


class Blobs:
    """The blob store of all workspaces."""

    def __init__(self, url: str) -> None:
        if urlsplit(url).scheme == "file":
            path = Path(urlsplit(url).path)
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._store: Any = LocalStore(path, mkdir=True)
        else:
            self._store = from_url(url)
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._cache_bytes = 0

    async def put(self, workspace: str, document: bytes) -> BlobRef:
        """Store a JSON document.

        Raises:
            ValueTooLarge: it is over `VALUE_BYTES_MAX`.
            MessageInvalid: `workspace` is none.
            BlobUnavailable: the store did not take it.
        """
        if len(document) > VALUE_BYTES_MAX:
            raise ValueTooLarge(_too_large(len(document)))
        reference = BlobRef(hashlib.sha256(document).hexdigest(), len(document))
        key = _key(workspace, reference)
        try:
            await obstore.put_async(self._store, key, document)
        except Exception as error:
            raise BlobUnavailable(f"the blob store did not take {len(document)} bytes: {error}") from error
        return reference

    async def get(self, workspace: str, reference: BlobRef) -> bytes:
        """Return a stored JSON document.

        Raises:
            BlobUnavailable: the store does not answer or does not have it.
            MessageInvalid: `workspace` or `reference` is none.
        """
        key = _key(workspace, reference)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        try:
            result = await obstore.get_async(self._store, key)
            document = bytes(await result.bytes_async())
        except Exception as error:
            raise BlobUnavailable(f"blob {reference.sha256} cannot be read: {error}") from error
        self._remember(key, document)
        return document

    async def load(self, workspace: str, reference: BlobRef) -> Any:
        """Return the value of a stored JSON document.

        Raises:
            BlobUnavailable: the store does not answer or does not have it.
        """
        return msgspec.json.decode(await self.get(workspace, reference))

    async def pack(self, workspace: str, data: Any) -> Payload:
        """Return `data` as a payload, by claim check when it is large.

        Raises:
            ValueTooLarge: it is over `VALUE_BYTES_MAX`.
            MessageInvalid: it is not JSON.
            BlobUnavailable: the store did not take it.
        """
        try:
            document = msgspec.json.encode(data)
        except (TypeError, ValueError, RecursionError) as error:
            raise MessageInvalid(f"the value is not JSON: {error}") from error
        if b"null" in document and _holds_no_number(data):
            raise MessageInvalid("the value is not JSON: it holds NaN or an infinity, which would silently become null")
        if len(document) <= INLINE_BYTES_MAX:
            return Payload(data=data)
        return Payload(refs={"": await self.put(workspace, document)})

    async def shrink(self, workspace: str, payload: Payload, inline_bytes_max: int = INLINE_BYTES_MAX) -> Payload:
        """Return `payload` itself, or, when its inline data is larger than `inline_bytes_max`, as a blob.

        A payload that is both large and holds references is made whole first, since a pointer into a blob cannot hold
        another blob.
        """
        if len(msgspec.json.encode(payload.data)) <= inline_bytes_max:
            return payload
        whole = msgspec.json.encode(await self.unpack(workspace, payload))
        return Payload(refs={"": await self.put(workspace, whole)})

    async def unpack(self, workspace: str, payload: Payload) -> Any:
        """Return the whole value of `payload`.

        Raises:
            BlobUnavailable: a part of it cannot be read.
            ValueTooLarge: put together it is over `VALUE_BYTES_MAX`.
            MessageInvalid: a reference has no place in the data, or is none.
        """
        if not payload.refs:
            return payload.data
        total = sum(reference.size_bytes for reference in payload.refs.values())
        if total > VALUE_BYTES_MAX:
            raise ValueTooLarge(_too_large(total))
        data = payload.data
        for pointer, reference in payload.refs.items():
            value = await self.load(workspace, reference)
            try:
                data = put_at(data, pointer, value)
            except (LookupError, TypeError, ValueError) as error:
                raise MessageInvalid(f"a payload has a blob at {pointer!r}, where its data has no place") from error
        return data

    def _remember(self, key: str, document: bytes) -> None:
        if key in self._cache:  # read by two callers at the same time
            return
        self._cache[key] = document
        self._cache_bytes += len(document)
        while self._cache_bytes > CACHE_BYTES_MAX:
            _, evicted = self._cache.popitem(last=False)
            self._cache_bytes -= len(evicted)


def _holds_no_number(data: Any) -> bool:
    """Whether a float in `data` is none that JSON has: it is written as null."""
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            waiting.extend(value)
        elif isinstance(value, float) and not math.isfinite(value):
            return True
    return False


def _too_large(size_bytes: int) -> str:
    limit = VALUE_BYTES_MAX // (1024 * 1024)
    return (
        f"the value is {size_bytes / 1024 / 1024:.1f} MiB of JSON; the limit is {limit} MiB. "
        "Store it elsewhere and pass a reference to it"
    )


def _key(workspace: str, reference: BlobRef) -> str:
    if not _WORKSPACE.fullmatch(workspace):
        raise MessageInvalid(f"{workspace!r} is not a workspace")
    if not _SHA256.fullmatch(reference.sha256):  # it would be a path out of the workspace
        raise MessageInvalid(f"{reference.sha256!r} is not the hash of a blob")
    return f"{workspace}/{reference.sha256[:2]}/{reference.sha256}"
