"""Functions that fail, wait and compute on demand, for trying out workflows, retries and timeouts."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from millrace_agent_runner.errors import RetryableFailure, StepFailure, TerminalFailure
from millrace_agent_runner.functions.attempt import current_attempt

SLEEP_S_MAX = 3600.0


async def fail(
    message: str = "failed on purpose",
    times: int | None = None,
    category: str = "server_error",
    retryable: bool = True,
    retry_after_s: float | None = None,
    result: Any = None,
) -> Any:
    """Fail, or fail only in the first `times` attempts and then return `result`.

    The default category is one that retry rules repeat unless they say otherwise. It goes by the number of the attempt
    and remembers nothing, so it is the same on any runner.

    Raises:
        RetryableFailure: as asked, with `category` and `retry_after_s`.
        TerminalFailure: the same, when not `retryable`.
    """
    if times is not None and current_attempt().attempt > times:
        return result
    failure: type[StepFailure] = RetryableFailure if retryable else TerminalFailure
    raise failure(message, category=category, retry_after_s=retry_after_s)


async def crash(message: str = "crashed on purpose") -> Any:
    """Raise an ordinary exception, as a function with a defect does."""
    raise RuntimeError(message)


async def sleep(seconds: float, result: Any = None) -> Any:
    """Wait, without holding a thread, then return `result`; at most `SLEEP_S_MAX` seconds."""
    await asyncio.sleep(min(float(seconds), SLEEP_S_MAX))
    return result


def block(seconds: float, result: Any = None) -> Any:
    """Hold a thread for a while, as a library without asyncio does, then return `result`."""
    time.sleep(min(float(seconds), SLEEP_S_MAX))
    return result


async def payload(size_bytes: int) -> str:
    """Return a text of `size_bytes` bytes, for trying out large values."""
    return "x" * int(size_bytes)


async def attempt() -> dict[str, Any]:
    """Return what the attempt knows about itself."""
    return dict(current_attempt()._asdict())
