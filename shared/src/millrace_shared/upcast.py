"""Lifts log messages of earlier shapes to the current one, one version at a time.

`UPCASTERS[n]` turns the JSON of version n into that of version n + 1. A running execution never notices an upgrade:
its old messages are lifted when they are read, and never rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millrace_shared.errors import MessageInvalid, UpgradeNeeded
from millrace_shared.messages import LOG_VERSION


def _same(message: dict[str, Any]) -> dict[str, Any]:
    """Version 2 added events and optional fields; what version 1 says means the same."""
    return message


UPCASTERS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _same}


def upcast(
    message: Any,
    upcasters: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = UPCASTERS,
    target: int = LOG_VERSION,
) -> dict[str, Any]:
    """Return `message` in the shape of version `target`.

    Raises:
        MessageInvalid: it is not a transition.
        UpgradeNeeded: it is of a later version than this code.
    """
    if not isinstance(message, dict) or type(message.get("v")) is not int:  # true is an int to Python
        raise MessageInvalid("a log message is an object with an integer `v`")
    if message["v"] > target:
        raise UpgradeNeeded(f"log version {message['v']} is newer than {target}: upgrade this service")
    while message["v"] < target:
        version = message["v"]
        if version not in upcasters:
            raise MessageInvalid(f"there is no upcaster from log version {version}")
        try:
            message = {**upcasters[version](message), "v": version + 1}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise MessageInvalid(
                f"a message of log version {version} cannot be lifted: {type(error).__name__}: {error}"
            ) from error
    lifted: dict[str, Any] = message
    return lifted
