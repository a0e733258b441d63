"""How much of a provider's answer is read: counted on the wire, before anything is made of it.

A token of a stream takes about 230 bytes, so the longest answers that models can give are below the limit. Compressed
answers are refused, since a few bytes of them can become any number.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import httpx2

BODY_BYTES_MAX = 32 * 1024 * 1024
HEADERS = {"Accept-Encoding": "identity"}
_COMPRESSED = "a provider sent a compressed answer, which was not asked for"


class BodyRefused(Exception):
    """A provider's answer is longer than any model's can be, or compressed."""


class _Counted(httpx.AsyncByteStream, httpx2.AsyncByteStream):
    """A body, up to the limit. Providers' libraries use either of the two clients."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size_bytes = 0
        async for chunk in self._body:
            size_bytes += len(chunk)
            if size_bytes > BODY_BYTES_MAX:
                limit = BODY_BYTES_MAX // (1024 * 1024)
                raise BodyRefused(f"the answer was cut off after {limit} MiB: no model answers at such length")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()


async def bound_body(response: Any) -> None:
    """Bound what is read of a response: an event hook of httpx, and of httpx2."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BodyRefused(_COMPRESSED)
    response.stream = _Counted(response.stream)


def bounded(client: Any) -> Any:
    """Return an `AsyncClient` that reads no more of any answer."""
    client.headers.update(HEADERS)
    client.event_hooks["response"].append(bound_body)
    return client
