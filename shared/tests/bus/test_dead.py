from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from millrace.embedded import BackgroundStack
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.dead import PAYLOAD_BYTES_MAX, bury
from millrace_shared.bus.log_reader import Stored, read_last, read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.pull import Delivery, PullLoop
from millrace_shared.bus.streams import NANOSECONDS, STREAMS, ensure_consumer
from millrace_shared.messages import DeadLetter

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
async def bus(fresh_nats: BackgroundStack) -> AsyncIterator[Connection]:
    """DEAD has a fixed name: these tests have a server of their own."""
    connection = await connect(fresh_nats.nats_url, "tests")
    source = {"name": "SOURCE", "subjects": ["source.>"], "retention": "workqueue"}
    await connection.jetstream_api("STREAM.CREATE.SOURCE", source)
    consumer = {"durable_name": "all", "ack_policy": "explicit", "ack_wait": NANOSECONDS // 5}
    await ensure_consumer(connection, "SOURCE", consumer)
    yield connection
    await connection.close()


@pytest.fixture
async def delivered(bus: Connection) -> AsyncIterator[list[Delivery]]:
    deliveries: list[Delivery] = []
    loop = PullLoop(bus, "SOURCE", "all", deliveries.append, capacity=100)
    await loop.start()
    yield deliveries
    await loop.stop()


async def make_dead(bus: Connection) -> None:
    dead = next(stream for stream in STREAMS if stream.name == "DEAD")
    await bus.jetstream_api("STREAM.CREATE.DEAD", dead.config(1))


async def left(bus: Connection) -> int:
    return int((await bus.jetstream_api("STREAM.INFO.SOURCE"))["state"]["messages"])


async def letters(bus: Connection) -> list[Stored]:
    return [stored async for stored in read_subject(bus, "DEAD", "dead.>")]


async def test_what_is_buried_is_copied_with_its_reason_and_then_removed(
    bus: Connection, publisher: Publisher, delivered: list[Delivery], eventually: Eventually
):
    await make_dead(bus)
    await publisher.publish(Outgoing("source.a", b"\xff\x00 poison"))
    await eventually(lambda: bool(delivered))
    await bury(publisher, delivered[0], "it is not a message", "tester")
    stored = await read_last(bus, "DEAD", "dead.source")
    assert stored is not None
    letter = msgspec.json.decode(stored.payload, type=DeadLetter)
    assert letter == DeadLetter(
        "SOURCE", "source.a", "it is not a message", "tester", letter.at, b"\xff\x00 poison", sequence=1
    )
    assert await left(bus) == 0


async def test_a_large_message_is_kept_in_part(
    bus: Connection, publisher: Publisher, delivered: list[Delivery], eventually: Eventually
):
    await make_dead(bus)
    await publisher.publish(Outgoing("source.a", b"x" * (7 * 1024 * 1024)))
    await eventually(lambda: bool(delivered))
    await bury(publisher, delivered[0], "too large", "tester")
    letter = msgspec.json.decode((await letters(bus))[0].payload, type=DeadLetter)
    assert (len(letter.payload), letter.truncated) == (PAYLOAD_BYTES_MAX, True)


async def test_burying_twice_keeps_one_letter(
    bus: Connection, publisher: Publisher, delivered: list[Delivery], eventually: Eventually
):
    await make_dead(bus)
    await publisher.publish(Outgoing("source.a", b""))
    await eventually(lambda: bool(delivered))
    for _ in range(2):
        await bury(publisher, delivered[0], "no", "tester")
    assert len(await letters(bus)) == 1


async def test_without_dead_the_message_comes_again_and_is_buried_then(
    bus: Connection, publisher: Publisher, delivered: list[Delivery], eventually: Eventually
):
    await publisher.publish(Outgoing("source.a", b"poison"))
    await eventually(lambda: bool(delivered))
    await bury(publisher, delivered[0], "no", "tester")
    assert await left(bus) == 1
    await eventually(lambda: len(delivered) > 1)
    assert delivered[-1].delivered_count == len(delivered)
    await make_dead(bus)
    await bury(publisher, delivered[-1], "no", "tester")
    assert len(await letters(bus)) == 1
    assert await left(bus) == 0
