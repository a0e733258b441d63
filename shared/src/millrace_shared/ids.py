"""Identifiers: executions, their partition, and the key of one step attempt.

An execution id is a UUIDv7, so ids sort by time; when the caller names the execution it is a UUIDv5 of
workspace, workflow and name, so that the same request made twice is the same execution under any concurrency.
"""

from __future__ import annotations

import os
import time
import uuid
from functools import lru_cache

PARTITION_COUNT = 16
"""Partitions of the execution space. A subject token, so changing it moves every execution: never change it."""

_FNV_OFFSET = 0x811C9DC5
_FNV_PRIME = 0x01000193
_NAMESPACE = uuid.UUID("6d696c6c-7261-5365-8000-657865637574")
_GATES = uuid.UUID("6d696c6c-7261-5365-8000-000067617465")


def new_id(now_s: float | None = None, randomness: bytes | None = None) -> str:
    """Return a UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then randomness.

    Args:
        now_s: Unix seconds; the wall clock when absent.
        randomness: ten bytes; `os.urandom` when absent. Tests and the simulation pass their own.
    """
    milliseconds = int((time.time() if now_s is None else now_s) * 1000)
    tail = int.from_bytes(os.urandom(10) if randomness is None else randomness, "big")
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | tail
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def named_execution_id(workspace: str, workflow_id: str, execution_name: str) -> str:
    """Return the id that an execution of this name always has (UUIDv5)."""
    return str(uuid.uuid5(_NAMESPACE, f"{workspace}\x00{workflow_id}\x00{execution_name}"))


def is_execution_id(text: str) -> bool:
    """Tell whether `text` is an id in the one canonical spelling that subjects and tables use."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


@lru_cache(maxsize=65_536)
def partition_of(execution_id: str) -> int:
    """Return the partition (0 to `PARTITION_COUNT` - 1) that owns an execution: FNV-1a, 32 bits."""
    digest = _FNV_OFFSET
    for byte in execution_id.encode():
        digest = (digest ^ byte) * _FNV_PRIME & 0xFFFF_FFFF
    return digest % PARTITION_COUNT


def attempt_key(step: str, item: int | None, attempt: int) -> str:
    """Return the key of one attempt within its execution: `load@1`, or `summarize~3@2` for an item of a `for_each`.

    It is a subject token and the fence that tells a late result from the current one.
    """
    return f"{step}@{attempt}" if item is None else f"{step}~{item}@{attempt}"


def child_execution_id(execution_id: str, key: str) -> str:
    """Return the id of the execution that performs the attempt `key` of another one (UUIDv5)."""
    return str(uuid.uuid5(_NAMESPACE, f"{execution_id}\x00{key}"))


def gate_id(workspace: str, workflow_id: str, rule: str, key: str) -> str:
    """Return the id of a gate of flow control: one for each value of a rule's key (UUIDv5)."""
    return str(uuid.uuid5(_GATES, f"{workspace}\x00{workflow_id}\x00{rule}\x00{key}"))
