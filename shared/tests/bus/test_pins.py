"""Pinned consumers: one of several loops gets everything, and another one when it is gone."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from millrace_shared.bus.connection import Connection
from millrace_shared.bus.pull import Delivery, PullLoop
from millrace_shared.bus.streams import NANOSECONDS, ensure_consumer

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
Store = Callable[..., Awaitable[list[int]]]
PIN_TTL_S = 2.0


class PinnedLoop(PullLoop):
    def __init__(self, connection: Connection, stream: str, capacity: int) -> None:
        self.payloads: list[int] = []
        self.changes: list[bool] = []
        super().__init__(
            connection,
            stream,
            "c",
            self.received,
            capacity=capacity,
            group="holder",
            on_pinned=self.changes.append,
            expires_s=PIN_TTL_S / 2,
        )

    def received(self, delivery: Delivery) -> None:
        delivery.ack()
        self.payloads.append(int(delivery.payload))


MakeLoop = Callable[..., Awaitable[PinnedLoop]]


@pytest.fixture
async def make_loop(bus: Connection, other_bus: Connection, stream: str) -> AsyncIterator[MakeLoop]:
    config = {
        "durable_name": "c",
        "ack_policy": "explicit",
        "priority_groups": ["holder"],
        "priority_policy": "pinned_client",
        "priority_timeout": int(PIN_TTL_S * NANOSECONDS),
    }
    await ensure_consumer(bus, stream, config)
    loops: list[PinnedLoop] = []

    async def make(capacity: int = 1000) -> PinnedLoop:
        loop = PinnedLoop(other_bus if loops else bus, stream, capacity)
        loops.append(loop)
        await loop.start()
        return loop

    yield make
    for loop in loops:
        await loop.stop()


async def test_one_gets_everything_and_knows_it(stream: str, store: Store, make_loop: MakeLoop, eventually: Eventually):
    loops = [await make_loop(), await make_loop()]
    for begin in range(0, 100, 10):
        await store(f"{stream}.a", 10, begin)
    await eventually(lambda: sum(len(loop.payloads) for loop in loops) == 100)
    holder, other = sorted(loops, key=lambda loop: -len(loop.payloads))
    assert (holder.payloads, other.payloads) == (list(range(100)), [])
    assert (holder.pinned, holder.changes) == (True, [True])
    assert (other.pinned, other.changes) == (False, [])


async def test_another_takes_over_from_one_that_stops(
    stream: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    first = await make_loop()
    await store(f"{stream}.a", 1)
    await eventually(lambda: first.payloads == [0])
    second = await make_loop()
    await first.stop()
    await store(f"{stream}.a", 1, 1)
    await eventually(lambda: second.payloads == [1])
    assert second.changes == [True]
    assert first.payloads == [0]


async def test_one_that_asks_no_more_loses_its_pin_and_hears_of_it(
    stream: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    stuck = await make_loop(capacity=1)
    await store(f"{stream}.a", 1)
    await eventually(lambda: stuck.payloads == [0])
    other = await make_loop()
    await store(f"{stream}.a", 1, 1)
    await eventually(lambda: other.payloads == [1])
    assert stuck.pinned  # as far as it knows
    stuck.release()
    await eventually(lambda: stuck.changes == [True, False])
    await store(f"{stream}.a", 1, 2)
    await eventually(lambda: other.payloads == [1, 2])
    assert (stuck.pinned, stuck.payloads) == (False, [0])


async def test_an_idle_holder_keeps_its_pin(
    bus: Connection, stream: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    unpinned: list[str] = []
    await bus.listen(f"$JS.EVENT.ADVISORY.CONSUMER.UNPINNED.{stream}.*", lambda *m: unpinned.append(m[0]))
    holder = await make_loop()
    await store(f"{stream}.a", 1)
    await eventually(lambda: holder.payloads == [0])
    other = await make_loop()
    expired = 0
    heard_at = other._heard_at

    def several_pin_lives_passed() -> bool:
        """Each of the other's requests lives half as long as the pin does."""
        nonlocal expired, heard_at
        if other._heard_at != heard_at:
            heard_at = other._heard_at
            expired += 1
        return expired >= 5

    await eventually(several_pin_lives_passed)
    await store(f"{stream}.a", 1, 1)
    await eventually(lambda: holder.payloads == [0, 1])
    assert unpinned == []
    assert other.payloads == []
