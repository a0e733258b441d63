"""Results that would crowd out the conversation are cut in the middle, and say so."""

from __future__ import annotations

from typing import Any

import msgspec

_HEAD_SHARE = 0.75
"""Most of what a text is about stands at its beginning; how it ended, at its end."""


def cut(value: Any, size_bytes_max: int) -> Any:
    """Return a JSON value that takes about `size_bytes_max` bytes at most.

    A text stays a text, and an object whose longest text is to blame stays an object. Anything else that is too long
    becomes the text of its JSON, cut.

    Raises:
        TypeError, ValueError, OverflowError: it is no JSON value.
    """
    document = msgspec.json.encode(value)
    if len(document) <= size_bytes_max:
        return value
    if isinstance(value, str):
        return cut_text(value, size_bytes_max)
    if isinstance(value, dict):
        texts = [key for key, item in value.items() if isinstance(item, str)]
        longest = max(texts, key=lambda key: len(value[key]), default=None)
        if longest is not None:
            others = len(msgspec.json.encode({**value, longest: ""}))
            shorter = {**value, longest: cut_text(value[longest], size_bytes_max - others)}
            if others < size_bytes_max // 2 and len(msgspec.json.encode(shorter)) <= 2 * size_bytes_max:
                return shorter
    return cut_text(document.decode(), size_bytes_max)


def cut_text(text: str, size_bytes_max: int) -> str:
    """Return `text` with as much left out of its middle as takes it to `size_bytes_max` bytes of UTF-8."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= size_bytes_max:
        return text
    kept = max(0, size_bytes_max)
    head = int(kept * _HEAD_SHARE)
    tail = kept - head
    start = encoded[:head].decode(errors="ignore")
    end = encoded[len(encoded) - tail :].decode(errors="ignore") if tail else ""
    left_out = len(encoded) - len(start.encode()) - len(end.encode())
    return f"{start}\n[cut: {left_out} of {len(encoded)} bytes were left out here]\n{end}"
