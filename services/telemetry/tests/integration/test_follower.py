"""Following a stream on a real server: every message once, in order, whatever happens to the consumer."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from millrace.embedded import BackgroundStack
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.streams import ensure_streams
from millrace_shared.errors import DatabaseUnavailable
from millrace_telemetry.adapters.follower import REQUEST_BYTES_MAX, Follower
from millrace_telemetry.errors import LogDiverged
from millrace_telemetry.metrics import StreamMetrics

CAPACITY = 20
Eventually = Callable[[Callable[[], Awaitable[bool]], str], Awaitable[None]]


@pytest.fixture
async def follower(bus: Connection) -> AsyncIterator[Follower]:
    follower = Follower(bus, "EVENTS", capacity=CAPACITY, metrics=StreamMetrics("EVENTS"))
    yield follower
    await follower.stop()


async def publish(publisher: Publisher, count: int, size_bytes: int = 1) -> None:
    payload = b"x" * size_bytes
    results = await publisher.publish_all([Outgoing(f"ev.0.{n % 7}", payload) for n in range(count)])
    assert all(isinstance(result, int) for result in results), results


async def read(follower: Follower, count: int) -> list[int]:
    sequences: list[int] = []
    async with asyncio.timeout(60):
        while len(sequences) < count:
            sequences += [message.sequence for message in await follower.batch(7)]
    return sequences


async def consumers(bus: Connection) -> list[str]:
    names = (await bus.jetstream_api("CONSUMER.NAMES.EVENTS"))["consumers"]
    return names or []


async def test_every_message_comes_once_and_in_order(bus: Connection, publisher: Publisher, follower: Follower) -> None:
    await publish(publisher, 100)
    await follower.start(30, "ev.0.1")
    assert await read(follower, 70) == list(range(31, 101))
    await publish(publisher, 50)
    assert await read(follower, 50) == list(range(101, 151))
    assert follower.lag == 0


async def test_no_more_wait_than_there_is_room_for(
    bus: Connection, publisher: Publisher, follower: Follower, eventually: Eventually
) -> None:
    await publish(publisher, 200)
    await follower.start(0, "")

    async def full() -> bool:
        return len(follower._messages) == CAPACITY

    await eventually(full, "the buffer is full")
    await bus.flush()
    assert len(follower._messages) == CAPACITY
    assert follower.lag == 200
    assert await read(follower, 200) == list(range(1, 201))


async def test_a_lost_delivery_is_read_again(
    publisher: Publisher, bus: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count(1)
    arrives = Follower._on_message

    def lose_the_fifth(self: Follower, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        if next(calls) != 5:
            arrives(self, subject, reply, headers, payload)

    monkeypatch.setattr(Follower, "_on_message", lose_the_fifth)
    follower = Follower(bus, "EVENTS", capacity=CAPACITY, metrics=StreamMetrics("EVENTS"))
    await publish(publisher, 50)
    await follower.start(0, "")
    try:
        assert await read(follower, 50) == list(range(1, 51))
    finally:
        await follower.stop()


async def test_a_consumer_that_was_deleted_is_made_again(
    bus: Connection, publisher: Publisher, follower: Follower
) -> None:
    await publish(publisher, 10)
    await follower.start(0, "")
    assert await read(follower, 10) == list(range(1, 11))
    for name in await consumers(bus):
        await bus.jetstream_api(f"CONSUMER.DELETE.EVENTS.{name}")
    await publish(publisher, 10)
    assert await read(follower, 10) == list(range(11, 21))


async def test_a_server_restart_in_the_middle(
    bus: Connection, publisher: Publisher, follower: Follower, fresh_nats: BackgroundStack
) -> None:
    await publish(publisher, 100)
    await follower.start(0, "")
    assert await read(follower, 7) == list(range(1, 8))
    await asyncio.to_thread(fresh_nats.kill, "nats")
    await asyncio.to_thread(fresh_nats.wait_ready, "nats")
    assert await read(follower, 93) == list(range(8, 101))


async def test_more_bytes_than_one_request_carries(
    publisher: Publisher, follower: Follower, eventually: Eventually
) -> None:
    await publish(publisher, 12, size_bytes=3_500_000)
    await follower.start(0, "")

    async def enough() -> bool:
        return follower._size_bytes > REQUEST_BYTES_MAX and not follower._asked

    await eventually(enough, "the buffer is full by size")
    assert follower._size_bytes <= 2 * REQUEST_BYTES_MAX
    assert await read(follower, 12) == list(range(1, 13))
    assert follower._size_bytes == 0


async def test_stopping_leaves_no_consumer(bus: Connection, publisher: Publisher, follower: Follower) -> None:
    await publish(publisher, 1)
    await follower.start(0, "")
    assert await read(follower, 1) == [1]
    assert len(await consumers(bus)) == 1
    await follower.stop()
    assert await consumers(bus) == []


async def test_an_interruption_ends_the_wait(follower: Follower) -> None:
    await follower.start(0, "")
    waiting = asyncio.create_task(follower.batch(1))
    await asyncio.sleep(0)
    follower.interrupt(DatabaseUnavailable("gone"))
    with pytest.raises(DatabaseUnavailable, match="gone"):
        await waiting


@pytest.mark.parametrize(("after", "subject"), [(11, ""), (10, "ev.0.6")])
async def test_another_stream_than_before_is_refused(
    publisher: Publisher, follower: Follower, after: int, subject: str
) -> None:
    await publish(publisher, 10)
    with pytest.raises(LogDiverged, match="rebuild"):
        await follower.start(after, subject)


async def test_a_stream_that_is_replaced_while_it_is_followed_is_refused(
    bus: Connection, publisher: Publisher, follower: Follower
) -> None:
    await publish(publisher, 10)
    await follower.start(0, "")
    assert await read(follower, 10) == list(range(1, 11))
    await bus.jetstream_api("STREAM.DELETE.EVENTS")
    await ensure_streams(bus)
    await publisher.publish(Outgoing("ev.0.other", b"x"))
    await publish(publisher, 20)
    with pytest.raises(LogDiverged, match="message 10 of EVENTS is not the one"):
        await read(follower, 1)


async def test_filters_leave_out_other_subjects_and_jumps_are_no_loss(bus: Connection, publisher: Publisher) -> None:
    metrics: Any = StreamMetrics("EVENTS")
    before = metrics.missing._value.get()
    follower = Follower(bus, "EVENTS", ("ev.0.3",), capacity=CAPACITY, metrics=metrics)
    await publish(publisher, 30)
    await follower.start(0, "")
    try:
        assert await read(follower, 4) == [4, 11, 18, 25]
        assert metrics.missing._value.get() == before
    finally:
        await follower.stop()
