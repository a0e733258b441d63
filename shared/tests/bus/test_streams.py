"""The table of streams on a real server: made once, brought in line, and doing what the design counts on."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from millrace_orchestrator.adapters.timers import schedule_long
from millrace_shared import subjects
from millrace_shared.bus import headers, streams
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.errors import BusRefused, SubjectTaken
from millrace_shared.bus.log_reader import read_last
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.pull import Delivery, PullLoop
from millrace_shared.bus.streams import (
    INBOX_GROUP,
    PIN_TTL_S,
    STREAMS,
    ensure_streams,
    inbox_consumer,
    work_consumer,
    work_consumer_name,
)
from millrace_shared.codec import decode_inbox, encode
from millrace_shared.ids import PARTITION_COUNT, new_id, partition_of
from millrace_shared.lanes import LANES
from millrace_shared.messages import WORK_KINDS, TimerFired

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
async def product_publisher(product_bus: Connection) -> Publisher:
    return await Publisher(product_bus).start()


@pytest.fixture
async def empty_bus(fresh_nats_url: str) -> AsyncIterator[Connection]:
    connection = await connect(fresh_nats_url, "tests")
    yield connection
    await connection.close()


async def streams_of(bus: Connection) -> dict[str, dict[str, Any]]:
    listed = await bus.jetstream_api("STREAM.LIST")
    return {one["config"]["name"]: one for one in listed["streams"]}


async def consumers_of(bus: Connection, stream: str) -> dict[str, dict[str, Any]]:
    listed = await bus.jetstream_api(f"CONSUMER.LIST.{stream}")
    return {one["name"]: one["config"] for one in listed["consumers"]}


async def test_everything_in_the_table_is_there(product_bus: Connection):
    assert set(await streams_of(product_bus)) == {stream.name for stream in STREAMS}
    assert set(await consumers_of(product_bus, "INBOX")) == {f"inbox-{number}" for number in range(PARTITION_COUNT)}
    assert set(await consumers_of(product_bus, "WORK")) == {
        work_consumer_name(kind, lane) for kind, lane in itertools.product(WORK_KINDS, LANES)
    }


async def test_the_server_took_every_option_as_it_is_written(product_bus: Connection):
    found = await streams_of(product_bus)
    for stream in STREAMS:
        asked, given = stream.config(1), found[stream.name]["config"]
        assert {name: given.get(name, False) for name in asked if name != "sources"} == {
            name: value for name, value in asked.items() if name != "sources"
        }
    inbox = await consumers_of(product_bus, "INBOX")
    work = await consumers_of(product_bus, "WORK")
    for asked, given in [
        *((inbox_consumer(number), inbox[f"inbox-{number}"]) for number in range(PARTITION_COUNT)),
        *((work_consumer(kind, lane), work[work_consumer_name(kind, lane)]) for kind in WORK_KINDS for lane in LANES),
    ]:
        assert {name: given.get(name) for name in asked} == asked


async def test_several_processes_may_ensure_them_at_the_same_time(fresh_nats_url: str):
    connections = [await connect(fresh_nats_url, f"tests {number}") for number in range(4)]
    await asyncio.gather(*map(ensure_streams, connections))
    assert len(await streams_of(connections[0])) == len(STREAMS)
    for connection in connections:
        await connection.close()


async def test_ensuring_them_again_changes_nothing(product_bus: Connection, product_publisher: Publisher):
    execution_id = new_id()
    await product_publisher.publish(Outgoing(subjects.log(execution_id), b"kept"))
    before = {name: one["config"] for name, one in (await streams_of(product_bus)).items()}
    await ensure_streams(product_bus)
    assert {name: one["config"] for name, one in (await streams_of(product_bus)).items()} == before
    assert await read_last(product_bus, "EVENTS", subjects.log(execution_id)) is not None


async def test_a_changed_table_is_applied_and_no_message_lost(
    product_bus: Connection, product_publisher: Publisher, monkeypatch: pytest.MonkeyPatch
):
    await product_publisher.publish_all([Outgoing(f"tel.0.{number}.fact", b"kept") for number in range(20)])
    changed = tuple(replace(one, max_age_s=3600) if one.name == "TELEMETRY" else one for one in STREAMS)
    monkeypatch.setattr(streams, "STREAMS", changed)
    await ensure_streams(product_bus)
    telemetry = (await streams_of(product_bus))["TELEMETRY"]
    assert telemetry["config"]["max_age"] == 3600 * streams.NANOSECONDS
    assert telemetry["state"]["messages"] == 20


async def test_more_copies_than_nodes_are_refused(empty_bus: Connection):
    with pytest.raises(BusRefused, match="replicas"):
        await ensure_streams(empty_bus, replicas=3)


async def test_the_log_refuses_what_would_rewrite_it(product_publisher: Publisher, product_bus: Connection):
    subject = subjects.log(new_id())
    await product_publisher.publish(Outgoing(subject, b"history"))
    block = headers.build({"Nats-Rollup": "all"})
    inbox, answers = product_bus.new_inbox(), asyncio.Queue[bytes]()
    await product_bus.listen(inbox, lambda *message: answers.put_nowait(message[3]))
    for unwanted in (
        block,
        headers.build({"Nats-Schedule": "@at 2000-01-01T00:00:00Z", "Nats-Schedule-Target": subject}),
    ):
        product_bus.send(subject, b"nothing", inbox, unwanted)
        async with asyncio.timeout(60):
            assert b'"error"' in await answers.get()
    last = await read_last(product_bus, "EVENTS", subject)
    assert last is not None
    assert last.payload == b"history"


async def test_the_log_is_repeated_live(product_bus: Connection, product_publisher: Publisher, eventually: Eventually):
    execution_id = new_id()
    heard: list[bytes] = []
    await product_bus.listen(subjects.live(execution_id), lambda *message: heard.append(message[3]))
    for payload in (b"one", b"two"):
        await product_publisher.publish(Outgoing(subjects.log(execution_id), payload))
    await eventually(lambda: heard == [b"one", b"two"])


async def test_an_attempt_is_queued_once(product_publisher: Publisher):
    subject = subjects.work("python", "normal", new_id(), "load@1")
    await product_publisher.publish(Outgoing(subject, b"first"))
    with pytest.raises(SubjectTaken):
        await product_publisher.publish(Outgoing(subject, b"again"))


async def test_work_reaches_the_consumer_of_its_kind_and_lane_and_is_gone_when_done(
    product_bus: Connection, product_publisher: Publisher, eventually: Eventually
):
    pairs = list(itertools.product(WORK_KINDS, LANES))
    delivered: list[tuple[str, str]] = []

    def done(kind: str, lane: str) -> Callable[[Delivery], None]:
        def deliver(delivery: Delivery) -> None:
            assert delivery.subject.startswith(f"work.{kind}.{lane}.")
            delivered.append((kind, lane))
            delivery.ack()

        return deliver

    loops = [
        PullLoop(product_bus, "WORK", work_consumer_name(kind, lane), done(kind, lane), capacity=5)
        for kind, lane in pairs
    ]
    for loop in loops:
        await loop.start()
    for kind, lane in pairs:
        await product_publisher.publish(Outgoing(subjects.work(kind, lane, new_id(), "a@1"), b""))
    await eventually(lambda: sorted(delivered) == sorted(pairs))
    async with asyncio.timeout(60):
        while (await streams_of(product_bus))["WORK"]["state"]["messages"]:
            pass
    for loop in loops:
        await loop.stop()


@pytest.fixture
async def inbox(product_bus: Connection) -> AsyncIterator[list[Delivery]]:
    """What all partitions of the inbox deliver."""
    deliveries: list[Delivery] = []
    loops = [
        PullLoop(
            product_bus,
            "INBOX",
            f"inbox-{number}",
            deliveries.append,
            capacity=1000,
            group=INBOX_GROUP,
            expires_s=PIN_TTL_S / 2,
        )
        for number in range(PARTITION_COUNT)
    ]
    for loop in loops:
        await loop.start()
    yield deliveries
    for loop in loops:
        await loop.stop()


async def test_a_start_and_what_follows_reach_the_same_partition(
    product_publisher: Publisher, inbox: list[Delivery], eventually: Eventually
):
    for execution_id in (new_id() for _ in range(20)):
        inbox.clear()
        await product_publisher.publish(Outgoing(subjects.start(execution_id), b""))
        await product_publisher.publish(Outgoing(subjects.inbox(execution_id), b""))
        await eventually(lambda: len(inbox) == 2)
        consumers = {delivery.reply.split(".")[3] for delivery in inbox}
        assert consumers == {f"inbox-{partition_of(execution_id)}"}
        for delivery in inbox:
            delivery.ack()


async def test_an_execution_is_accepted_once_even_after_its_start_was_acknowledged(
    product_bus: Connection, product_publisher: Publisher, inbox: list[Delivery], eventually: Eventually
):
    start = subjects.start(new_id())
    await product_publisher.publish(Outgoing(start, b"request", expected_last_sequence=0))
    await eventually(lambda: len(inbox) == 1)
    inbox[0].ack()
    with pytest.raises(BusRefused):
        await product_publisher.publish(Outgoing(start, b"again", expected_last_sequence=0))
    kept = await read_last(product_bus, "INBOX", start)
    assert kept is not None
    assert kept.payload == b"request"


async def test_a_long_timer_is_fired_into_the_inbox(
    product_bus: Connection, inbox: list[Delivery], eventually: Eventually
):
    fired = TimerFired(new_id(), "wait", "pause", item=3, attempt=1)
    schedule_long(product_bus, time.time() + 0.1, fired)
    await eventually(lambda: bool(inbox))
    assert inbox[0].subject == subjects.inbox(fired.execution_id)
    assert decode_inbox(inbox[0].payload) == fired


async def test_setting_a_timer_again_replaces_it(
    product_bus: Connection, inbox: list[Delivery], eventually: Eventually
):
    replaced, other = TimerFired(new_id(), "wait", "pause"), TimerFired(new_id(), "wait", "pause")
    schedule_long(product_bus, time.time() + 0.5, replaced)
    schedule_long(product_bus, time.time() + 3600, replaced)
    schedule_long(product_bus, time.time() + 1.0, other)
    await eventually(lambda: bool(inbox))
    assert [decode_inbox(delivery.payload) for delivery in inbox] == [other]


async def test_a_timer_that_was_purged_never_fires(
    product_bus: Connection, inbox: list[Delivery], eventually: Eventually
):
    cancelled, other = (
        TimerFired(new_id(), "retry", "call", attempt=1),
        TimerFired(new_id(), "retry", "call", attempt=1),
    )
    schedule_long(product_bus, time.time() + 4.0, cancelled)
    schedule_long(product_bus, time.time() + 4.5, other)
    async with asyncio.timeout(60):
        while (await streams_of(product_bus))["TIMERS"]["state"]["messages"] < 2:
            pass
    purged = await product_bus.jetstream_api(
        "STREAM.PURGE.TIMERS", {"filter": subjects.timer_set(cancelled.execution_id, "*")}
    )
    assert purged["purged"] == 1
    await eventually(lambda: bool(inbox))
    assert [delivery.payload for delivery in inbox] == [encode(other)]
