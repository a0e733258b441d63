"""The pull loop on a real server: credit, what comes again, and every way in which a request can be lost."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from millrace.embedded import BackgroundStack
from millrace_shared.bus import pull
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.pull import Delivery, PullLoop
from millrace_shared.bus.streams import NANOSECONDS, ensure_consumer

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
MakeStream = Callable[..., Awaitable[str]]
MessagesOf = Callable[[str], Awaitable[int]]
Store = Callable[..., Awaitable[list[int]]]
SHORT_S = 1.0


class RecordingLoop(PullLoop):
    """Keeps what was delivered, and how far the credit was overdrawn by it."""

    def __init__(self, connection: Connection, stream: str, *, capacity: int, **options: Any) -> None:
        super().__init__(connection, stream, "c", self.received, capacity=capacity, **options)
        self.deliveries: list[Delivery] = []
        self.statuses: list[str] = []
        self.overdrawn = 0

    def received(self, delivery: Delivery) -> None:
        self.overdrawn = max(self.overdrawn, self.taken + self.asked - self.capacity)
        self.deliveries.append(delivery)

    def _on_status(self, headers: bytes, batch: int) -> None:
        self.statuses.append(headers[9:12].decode())
        super()._on_status(headers, batch)

    @property
    def payloads(self) -> list[int]:
        return [int(delivery.payload) for delivery in self.deliveries]

    def finish(self) -> None:
        """Acknowledge and give back all that is taken."""
        for delivery in self.deliveries[len(self.deliveries) - self.taken :]:
            delivery.ack()
            self.release()


MakeLoop = Callable[..., Awaitable[RecordingLoop]]


async def make_consumer(bus: Connection, stream: str, **options: Any) -> None:
    config = {"durable_name": "c", "ack_policy": "explicit", "max_ack_pending": -1, **options}
    await ensure_consumer(bus, stream, config)


async def consumer_info(bus: Connection, stream: str) -> dict[str, Any]:
    return await bus.jetstream_api(f"CONSUMER.INFO.{stream}.c")


@pytest.fixture
async def queue(make_stream: MakeStream, bus: Connection) -> str:
    """A work queue with a consumer `c` that delivers again after `SHORT_S`."""
    stream = await make_stream(retention="workqueue")
    await make_consumer(bus, stream, ack_wait=int(SHORT_S * NANOSECONDS))
    return stream


@pytest.fixture
async def patient(stream: str, bus: Connection) -> str:
    """A stream with a consumer `c` that waits long for acknowledgements."""
    await make_consumer(bus, stream, ack_wait=3600 * NANOSECONDS)
    return stream


@pytest.fixture
async def make_loop(bus: Connection) -> AsyncIterator[MakeLoop]:
    loops: list[RecordingLoop] = []

    async def make(stream: str, *, capacity: int, connection: Connection = bus, **options: Any) -> RecordingLoop:
        loop = RecordingLoop(connection, stream, capacity=capacity, **options)
        loops.append(loop)
        await loop.start()
        return loop

    yield make
    for loop in loops:
        await loop.stop()
        assert loop.overdrawn == 0


async def test_a_slow_consumer_is_never_sent_more_than_it_has_places_for(
    bus: Connection, patient: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    await store(f"{patient}.a", 50)
    loop = await make_loop(patient, capacity=4)
    await eventually(lambda: len(loop.deliveries) == 4)
    info = await consumer_info(bus, patient)
    assert (info["num_ack_pending"], info["num_pending"], info["num_waiting"]) == (4, 46, 0)
    assert (loop.taken, loop.asked) == (4, 0)

    loop.deliveries[0].ack()
    loop.release()
    await eventually(lambda: len(loop.deliveries) == 5)
    assert (await consumer_info(bus, patient))["num_ack_pending"] == 4


async def test_everything_comes_once_and_in_order(
    patient: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    await store(f"{patient}.a", 100)
    loop = await make_loop(patient, capacity=7)

    def all_done() -> bool:
        loop.finish()
        return len(loop.deliveries) == 100

    await eventually(all_done)
    assert loop.payloads == list(range(100))


async def test_a_new_request_goes_out_once_half_of_the_places_are_free(
    bus: Connection, patient: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    batches: list[int] = []
    await bus.listen(
        f"$JS.API.CONSUMER.MSG.NEXT.{patient}.c", lambda *message: batches.append(json.loads(message[3])["batch"])
    )
    loop = await make_loop(patient, capacity=10)
    await store(f"{patient}.a", 4)
    await eventually(lambda: len(loop.deliveries) == 4)
    loop.finish()
    assert (loop.taken, loop.asked) == (0, 6)
    await store(f"{patient}.a", 1)
    await eventually(lambda: len(loop.deliveries) == 5)
    loop.finish()
    assert (loop.taken, loop.asked) == (0, 10)
    await eventually(lambda: len(batches) == 2)
    assert batches == [10, 5]


async def test_request_asks_for_however_few_places_there_are(patient: str, make_loop: MakeLoop):
    loop = await make_loop(patient, capacity=10)
    loop.capacity = 11
    loop.release(0)
    assert loop.asked == 10
    loop.request()
    assert loop.asked == 11


async def test_a_delivery_knows_where_it_comes_from(
    queue: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    await store(f"{queue}.a", 2)
    loop = await make_loop(queue, capacity=2)
    await eventually(lambda: len(loop.deliveries) == 2)
    second = loop.deliveries[1]
    assert (second.stream, second.subject, second.sequence, second.delivered_count) == (queue, f"{queue}.a", 2, 1)


@pytest.mark.parametrize(("before", "after"), [("", ""), ("domain.account.", ""), ("domain.account.", ".token")])
def test_both_forms_of_an_acknowledgement_subject_are_understood(before: str, after: str):
    reply = f"$JS.ACK.{before}STREAM.consumer.3.41.7.1700000000000000000.5{after}"
    delivery = Delivery(Connection(), "subject", b"", reply)
    assert (delivery.stream, delivery.delivered_count, delivery.sequence) == ("STREAM", 3, 41)


async def test_what_is_acknowledged_is_gone(
    queue: str, store: Store, make_loop: MakeLoop, eventually: Eventually, messages_of: MessagesOf
):
    await store(f"{queue}.a", 2)
    loop = await make_loop(queue, capacity=2)
    await eventually(lambda: len(loop.deliveries) == 2)
    loop.deliveries[0].ack()
    loop.deliveries[1].terminate()
    async with asyncio.timeout(60):
        while await messages_of(queue) > 0:
            pass


async def test_what_is_not_acknowledged_comes_again(
    queue: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    await store(f"{queue}.a", 1)
    loop = await make_loop(queue, capacity=3)
    await eventually(lambda: len(loop.deliveries) == 3)
    assert [delivery.delivered_count for delivery in loop.deliveries] == [1, 2, 3]
    assert {delivery.sequence for delivery in loop.deliveries} == {1}


async def test_nak_brings_it_again_at_once(patient: str, store: Store, make_loop: MakeLoop, eventually: Eventually):
    await store(f"{patient}.a", 1)
    loop = await make_loop(patient, capacity=2)
    await eventually(lambda: len(loop.deliveries) == 1)
    loop.deliveries[0].nak()
    await eventually(lambda: len(loop.deliveries) == 2)
    assert loop.deliveries[1].delivered_count == 2


@pytest.mark.parametrize("delayed", ["nak", "in_progress"])
async def test_nak_with_a_delay_and_progress_put_it_off(
    queue: str, store: Store, make_loop: MakeLoop, eventually: Eventually, delayed: str
):
    """Meanwhile another message, about which nothing is said, comes again and again."""
    await store(f"{queue}.a", 2)
    loop = await make_loop(queue, capacity=6)
    await eventually(lambda: len(loop.deliveries) >= 2)
    first = loop.deliveries[0]
    if delayed == "nak":
        first.nak(3600)

    def other_came_four_times() -> bool:
        if delayed == "in_progress":
            first.in_progress()
        return loop.payloads.count(1) == 4

    await eventually(other_came_four_times)
    assert loop.payloads.count(0) == 1


async def test_a_request_that_runs_out_is_made_again(
    patient: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    loop = await make_loop(patient, capacity=5, expires_s=0.05)
    await eventually(lambda: loop.statuses.count("408") >= 3)
    assert loop.asked == 5
    await store(f"{patient}.a", 3)
    await eventually(lambda: len(loop.deliveries) == 3)


async def test_heartbeats_keep_a_request_open(
    patient: str, make_loop: MakeLoop, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pull, "HEARTBEAT_S", 0.5)
    loop = await make_loop(patient, capacity=5)
    inbox = loop._inbox
    await eventually(lambda: loop.statuses.count("100") >= 4)  # longer than the watchdog's patience
    assert set(loop.statuses) == {"100"}
    assert (loop._inbox, loop.asked) == (inbox, 5)


async def test_silence_starts_the_request_again(
    bus: Connection, make_loop: MakeLoop, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
):
    """Somebody takes the requests and says nothing, as a server does that has lost one."""
    monkeypatch.setattr(pull, "HEARTBEAT_S", 0.05)
    inboxes: list[str] = []
    silent = await bus.listen("$JS.API.CONSUMER.MSG.NEXT.SILENT.c", lambda *message: inboxes.append(message[1]))
    loop = await make_loop("SILENT", capacity=5)
    await eventually(lambda: len(inboxes) == 3)
    assert len(set(inboxes)) == 3
    assert loop.asked == 5
    await bus.unlisten(silent)


async def test_a_consumer_that_is_not_there_yet_is_waited_for(
    bus: Connection, stream: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    await store(f"{stream}.a", 1)
    loop = await make_loop(stream, capacity=3)
    await eventually(lambda: bool(loop.statuses))
    assert set(loop.statuses) <= {"503", "404"}
    await make_consumer(bus, stream)
    await eventually(lambda: loop.payloads == [0])


@pytest.mark.parametrize("what", ["consumer", "stream"])
async def test_a_consumer_that_was_deleted_and_made_again_is_found(
    bus: Connection, make_stream: MakeStream, store: Store, make_loop: MakeLoop, eventually: Eventually, what: str
):
    stream = await make_stream()
    await make_consumer(bus, stream)
    loop = await make_loop(stream, capacity=3)
    await bus.flush()
    await bus.jetstream_api(f"CONSUMER.DELETE.{stream}.c" if what == "consumer" else f"STREAM.DELETE.{stream}")
    await eventually(lambda: "503" in loop.statuses)
    assert loop.asked == 0
    if what == "stream":
        await bus.jetstream_api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"{stream}.>"]})
    await make_consumer(bus, stream)
    await store(f"{stream}.a", 1)
    await eventually(lambda: loop.payloads == [0])


async def test_a_refused_request_costs_its_own_credit_only_and_is_not_repeated_at_once(
    bus: Connection, stream: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    await make_consumer(bus, stream, max_batch=5)
    requests: list[int] = []
    await bus.listen(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.c", lambda *_: requests.append(1))
    loop = await make_loop(stream, capacity=4)
    loop.capacity = 14
    loop.request()
    assert loop.asked == 14
    await eventually(lambda: bool(loop.statuses))
    assert (loop.statuses, loop.asked) == (["409"], 4)
    await consumer_info(bus, stream)  # the server has seen whatever was sent by now
    assert len(requests) == 2
    loop.capacity = 5
    await store(f"{stream}.a", 5)
    await eventually(lambda: len(loop.deliveries) == 5)


async def test_nothing_comes_after_stop(
    bus: Connection, patient: str, store: Store, make_loop: MakeLoop, eventually: Eventually
):
    stopped = await make_loop(patient, capacity=5)
    await stopped.stop()
    stopped.release(0)
    other = await make_loop(patient, capacity=50)
    await store(f"{patient}.a", 20)
    await eventually(lambda: len(other.deliveries) == 20)
    assert stopped.deliveries == []
    assert stopped._restart not in bus.on_reconnect


async def test_a_killed_server_costs_no_message_and_no_credit(fresh_nats: BackgroundStack, eventually: Eventually):
    bus = await connect(fresh_nats.nats_url, "tests")
    await bus.jetstream_api("STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "allow_atomic": True})
    await make_consumer(bus, "S", ack_wait=3600 * NANOSECONDS)
    publisher = await Publisher(bus).start()
    await publisher.publish_all([Outgoing("s.a", b"%d" % number) for number in range(20)])
    loop = RecordingLoop(bus, "S", capacity=4)
    await loop.start()
    await eventually(lambda: len(loop.deliveries) == 4)

    away: list[bool] = []
    bus.on_disconnect.append(lambda: away.append(True))
    fresh_nats.kill("nats")
    await eventually(lambda: bool(away))
    loop.finish()  # while the server is away: a request now would come besides that of the new connection

    def all_came() -> bool:
        if len(loop.deliveries) >= 8:
            loop.finish()
        return set(loop.payloads) == set(range(20))

    await eventually(all_came)
    assert loop.overdrawn == 0
    await loop.stop()
    await bus.close()
