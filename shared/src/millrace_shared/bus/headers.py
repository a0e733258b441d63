"""NATS header blocks, built and read as bytes: the hot paths need two or three known headers, not a mapping."""

from __future__ import annotations

from collections.abc import Mapping

_VERSION = b"NATS/1.0"
_END = b"\r\n"


def build(headers: Mapping[str, str | int]) -> bytes:
    """Return a header block. Values come from our own code and hold no line breaks."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return b"NATS/1.0\r\n" + lines.encode() + _END


def value_of(block: bytes, name: str) -> str | None:
    """Return the value of the header `name` (exact case), or None."""
    start = block.find(b"\r\n" + name.encode() + b":")
    if start < 0:
        return None
    start += len(name) + 3
    return block[start : block.find(_END, start)].decode().strip()


def status_of(block: bytes) -> tuple[str, str]:
    """Return (status, description) of a control message, or ("", "") for an ordinary one."""
    line = block[len(_VERSION) : block.find(_END)].decode().strip()
    status, _, description = line.partition(" ")
    return status, description
