"""Waits end when the process stops, whenever they began."""

import asyncio

import pytest

from millrace_api.adapters.deadlines import Deadlines

LONG_S = 3600.0


async def test_a_wait_that_goes_on_is_ended_by_the_stop():
    deadlines, begun = Deadlines(), asyncio.Event()

    async def wait() -> None:
        async with deadlines.within(LONG_S):
            begun.set()
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await begun.wait()
    deadlines.stop()
    async with asyncio.timeout(60):
        with pytest.raises(TimeoutError):
            await waiting


async def test_a_wait_that_begins_after_the_stop_ends_at_once():
    """A request may be storing what it will wait for at the moment of the stop."""
    deadlines = Deadlines()
    deadlines.stop()
    loop = asyncio.get_running_loop()
    patience = loop.call_later(60, asyncio.current_task().cancel)  # type: ignore[union-attr]
    with pytest.raises(TimeoutError):
        async with deadlines.within(LONG_S):
            await asyncio.Event().wait()
    patience.cancel()
