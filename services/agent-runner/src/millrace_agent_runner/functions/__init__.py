"""Functions that `python` steps may call without any configuration: `echo`, `fib`, and the modules beside this one.

A function gets the step's `input` as keyword arguments and returns any JSON value. Write it so that running it twice
does no harm: an attempt whose runner died is performed again. `async def` runs on the runner's event loop, so it must
not compute for long; a plain `def` runs in a thread. To say how it failed, a function raises `RetryableFailure` or
`TerminalFailure`; any other exception is `user_code`, which is retried only when the step's retry rule names it.
`current_attempt()` tells which attempt it is.
"""

from __future__ import annotations

from typing import Any

from millrace_agent_runner.errors import RetryableFailure, StepFailure, TerminalFailure
from millrace_agent_runner.functions.attempt import CurrentAttempt, current_attempt

FIB_MAX = 1_000  # 209 digits

__all__ = [
    "CurrentAttempt",
    "RetryableFailure",
    "StepFailure",
    "TerminalFailure",
    "current_attempt",
    "echo",
    "fib",
]


async def echo(input: Any = None) -> Any:  # noqa: A002  the name is the step's argument; async: no thread
    """Return `input` as it is."""
    return input


async def fib(n: int) -> int:
    """Return a Fibonacci number: the one at place `n`, where places 0 and 1 hold 0 and 1.

    Raises:
        TerminalFailure: `n` is not a whole number from 0 to `FIB_MAX`.
    """
    if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n <= FIB_MAX:
        raise TerminalFailure(f"fib needs a whole number from 0 to {FIB_MAX}, not {n!r}", category="input_invalid")
    before, value = 1, 0
    for _ in range(n):
        before, value = value, before + value
    return value
