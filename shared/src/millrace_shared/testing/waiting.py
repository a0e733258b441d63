"""Waiting for a condition, with a deadline: tests sleep for nothing else.

The deadline is for machines that are slow, not for the code: what is waited for comes within milliseconds as a rule.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from threading import Event
from typing import TypeVar

DEADLINE_S = 60.0
PAUSE_S = 0.02

Found = TypeVar("Found")
What = str | Callable[[], str]


def until(condition: Callable[[], Found], what: What = "what is waited for", deadline_s: float = DEADLINE_S) -> Found:
    """Return the first result of `condition` that is true.

    Args:
        condition: Asked every 20 ms.
        what: What is waited for, or a function that says how far it has come.
        deadline_s: How long to wait, in seconds.

    Raises:
        AssertionError: It did not come in time.
    """
    deadline = time.monotonic() + deadline_s
    pause = Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, _in_vain(what, deadline_s)
        pause.wait(PAUSE_S)
    return found


async def eventually(
    condition: Callable[[], Awaitable[Found] | Found],
    what: What = "what is waited for",
    deadline_s: float = DEADLINE_S,
) -> Found:
    """Return the first result of `condition`, a function or a coroutine function, that is true. See `until`."""
    deadline = time.monotonic() + deadline_s
    while True:
        asked = condition()
        found = await asked if isawaitable(asked) else asked
        if found:
            return found
        assert time.monotonic() < deadline, _in_vain(what, deadline_s)
        await asyncio.sleep(PAUSE_S)


def _in_vain(what: What, deadline_s: float) -> str:
    return f"within {deadline_s:g} s it did not happen: {what if isinstance(what, str) else what()}"
