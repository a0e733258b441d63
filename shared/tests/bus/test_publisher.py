import asyncio
from collections.abc import Awaitable, Callable

import pytest

from millrace.embedded import BackgroundStack
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.errors import (
    BusRefused,
    MessageTooLarge,
    StreamMissing,
    SubjectTaken,
    WrongLastSequence,
)
from millrace_shared.bus.log_reader import read_subject
from millrace_shared.bus.publisher import (
    ATOMIC_MESSAGES_MIN,
    BATCH_BYTES_MAX,
    BATCH_MESSAGES_MAX,
    Outgoing,
    Publisher,
    _groups,
)
from millrace_shared.errors import BusUnavailable

MakeStream = Callable[..., Awaitable[str]]
MessagesOf = Callable[[str], Awaitable[int]]
ONE_PER_SUBJECT = {"max_msgs_per_subject": 1, "discard": "new", "discard_new_per_subject": True}


def outgoing(stream: str, count: int, fence: int | None = None) -> list[Outgoing]:
    return [Outgoing(f"{stream}.{number}", b"%d" % number, fence) for number in range(count)]


async def stored(bus: Connection, stream: str) -> list[tuple[str, bytes]]:
    return [(one.subject, one.payload) async for one in read_subject(bus, stream, f"{stream}.>")]


async def test_a_message_is_stored_with_its_sequence(bus: Connection, publisher: Publisher, stream: str):
    acks = [await publisher.publish(Outgoing(f"{stream}.a", payload)) for payload in (b"one", b"two")]
    assert [(ack.stream, ack.seq, ack.duplicate) for ack in acks] == [(stream, 1, False), (stream, 2, False)]
    assert await stored(bus, stream) == [(f"{stream}.a", b"one"), (f"{stream}.a", b"two")]


async def test_the_fence_lets_one_of_many_writers_through(bus: Connection, publisher: Publisher, stream: str):
    subject = f"{stream}.log"
    rivals = [Outgoing(subject, b"%d" % number, expected_last_sequence=0) for number in range(50)]
    results = await asyncio.gather(*map(publisher.publish, rivals), return_exceptions=True)
    lost = [result for result in results if isinstance(result, WrongLastSequence)]
    assert len(lost) == 49
    assert "wrong last sequence" in str(lost[0])
    with pytest.raises(WrongLastSequence):
        await publisher.publish(Outgoing(subject, b"stale", expected_last_sequence=0))
    assert (await publisher.publish(Outgoing(subject, b"next", expected_last_sequence=1))).seq == 2
    assert len(await stored(bus, stream)) == 2


async def test_the_fence_is_the_subject_s_and_not_the_stream_s(publisher: Publisher, stream: str):
    await publisher.publish(Outgoing(f"{stream}.a", b""))
    assert (await publisher.publish(Outgoing(f"{stream}.b", b"", expected_last_sequence=0))).seq == 2


async def test_the_same_message_id_is_stored_once(publisher: Publisher, stream: str, messages_of: MessagesOf):
    message = Outgoing(f"{stream}.a", b"", message_id="the same")
    first, second = await publisher.publish(message), await publisher.publish(message)
    assert (first.duplicate, second.duplicate) == (False, True)
    assert first.seq == second.seq
    assert await messages_of(stream) == 1


async def test_a_batch_is_contiguous_among_other_writers(publisher: Publisher, stream: str):
    async def batch(name: str) -> range:
        messages = [Outgoing(f"{stream}.{name}.{number}", b"") for number in range(20)]
        ack = await publisher.publish_atomic(messages)
        assert ack.count == 20
        return range(ack.seq - 19, ack.seq + 1)

    *ranges, single = await asyncio.gather(
        *(batch(str(number)) for number in range(5)), publisher.publish(Outgoing(f"{stream}.x", b""))
    )
    assert sorted([single.seq, *(sequence for one in ranges for sequence in one)]) == list(range(1, 102))


async def test_a_batch_keeps_the_order_of_its_messages(bus: Connection, publisher: Publisher, stream: str):
    await publisher.publish_atomic(outgoing(stream, 100))
    assert [payload for _, payload in await stored(bus, stream)] == [b"%d" % number for number in range(100)]


async def test_a_batch_of_one_is_an_ordinary_message(publisher: Publisher, make_stream: MakeStream):
    stream = await make_stream(allow_atomic=False)
    assert (await publisher.publish_atomic(outgoing(stream, 1))).seq == 1


async def test_one_lost_fence_refuses_the_whole_batch(publisher: Publisher, stream: str, messages_of: MessagesOf):
    await publisher.publish(Outgoing(f"{stream}.7", b"before"))
    with pytest.raises(WrongLastSequence):
        await publisher.publish_atomic(outgoing(stream, 12, fence=0))
    assert await messages_of(stream) == 1


async def test_a_stream_without_batches_refuses_them(
    publisher: Publisher, make_stream: MakeStream, messages_of: MessagesOf
):
    stream = await make_stream(allow_atomic=False)
    with pytest.raises(BusRefused, match="atomic"):
        await publisher.publish_atomic(outgoing(stream, 3))
    assert await messages_of(stream) == 0


async def test_the_largest_batch_is_accepted_and_a_larger_one_never_sent(
    publisher: Publisher, stream: str, messages_of: MessagesOf
):
    with pytest.raises(BusRefused, match=r"1001 messages .* limit is 1000"):
        await publisher.publish_atomic(outgoing(stream, BATCH_MESSAGES_MAX + 1))
    assert await messages_of(stream) == 0
    assert (await publisher.publish_atomic(outgoing(stream, BATCH_MESSAGES_MAX))).seq == BATCH_MESSAGES_MAX


@pytest.mark.parametrize("count", [0, 1, ATOMIC_MESSAGES_MIN - 1, ATOMIC_MESSAGES_MIN, BATCH_MESSAGES_MAX + 10])
async def test_publish_all_stores_any_number(publisher: Publisher, stream: str, count: int):
    assert await publisher.publish_all(outgoing(stream, count)) == list(range(1, count + 1))


@pytest.mark.parametrize("count", [ATOMIC_MESSAGES_MIN - 1, ATOMIC_MESSAGES_MIN, 40])
async def test_publish_all_judges_each_message_by_itself(
    bus: Connection, publisher: Publisher, stream: str, count: int
):
    await publisher.publish(Outgoing(f"{stream}.3", b"before"))
    results = await publisher.publish_all(outgoing(stream, count, fence=0))
    assert isinstance(results.pop(3), WrongLastSequence)
    subjects = [subject for subject, _ in await stored(bus, stream)]
    numbers = [number for number in range(count) if number != 3]
    assert [subjects[result - 1] for result in results if isinstance(result, int)] == [
        f"{stream}.{number}" for number in numbers
    ]


async def test_publish_all_reports_a_repeated_message_by_its_first_sequence(publisher: Publisher, stream: str):
    messages = [Outgoing(f"{stream}.a", b"", message_id=str(number)) for number in range(20)]
    first = await publisher.publish_all(messages)
    assert await publisher.publish_all(messages) == first == list(range(1, 21))


async def test_publish_all_with_one_message_that_is_too_large(publisher: Publisher, bus: Connection, stream: str):
    messages = [*outgoing(stream, 9), Outgoing(f"{stream}.large", b"x" * (bus.max_payload + 1))]
    results = await publisher.publish_all([messages[9], *messages[:9]])
    assert isinstance(results[0], MessageTooLarge)
    assert results[1:] == list(range(1, 10))


async def test_a_batch_with_a_message_that_is_too_large_is_not_begun(
    publisher: Publisher, bus: Connection, stream: str, messages_of: MessagesOf
):
    with pytest.raises(MessageTooLarge):
        await publisher.publish_atomic([*outgoing(stream, 2), Outgoing(f"{stream}.x", b"x" * bus.max_payload)])
    assert publisher._waiting == {}
    assert await messages_of(stream) == 0


async def test_publish_all_says_for_each_that_the_server_is_silent(
    publisher: Publisher, make_silent: Callable[[], Awaitable[str]]
):
    silent = await make_silent()
    for count in (2, ATOMIC_MESSAGES_MIN):
        results = await publisher.publish_all([Outgoing(silent, b"")] * count, timeout_s=0.05)
        assert [type(result) for result in results] == [BusUnavailable] * count


@pytest.fixture
def make_silent(bus: Connection) -> Callable[[], Awaitable[str]]:
    """A subject on which somebody listens, and never answers."""

    async def make() -> str:
        subject = bus.new_inbox()
        await bus.listen(subject, lambda *_: None)
        return subject

    return make


async def test_silence_is_bounded_and_leaves_nothing_behind(
    publisher: Publisher, make_silent: Callable[[], Awaitable[str]]
):
    silent = await make_silent()
    with pytest.raises(BusUnavailable, match=f"did not acknowledge {silent} within 0.05 s"):
        await publisher.publish(Outgoing(silent, b""), timeout_s=0.05)
    with pytest.raises(BusUnavailable):
        await publisher.publish_atomic([Outgoing(silent, b"")] * 3, timeout_s=0.05)
    with pytest.raises(BusUnavailable):
        await publisher.publish_in_order([Outgoing(silent, b"")] * 3, timeout_s=0.05)
    assert publisher._waiting == {}


async def test_a_subject_without_a_stream_is_told_at_once(publisher: Publisher):
    nowhere = Outgoing("no.stream.listens.here", b"")
    with pytest.raises(StreamMissing, match=r"no stream listens on no\.stream\.listens\.here"):
        await publisher.publish(nowhere, timeout_s=3600)
    with pytest.raises(StreamMissing):
        await publisher.publish_atomic([nowhere] * 3, timeout_s=3600)
    assert [type(one) for one in await publisher.publish_all([nowhere] * 12)] == [StreamMissing] * 12


async def test_a_caller_that_gives_up_does_not_disturb_the_others(publisher: Publisher, stream: str):
    cancelled = asyncio.create_task(publisher.publish(Outgoing(f"{stream}.a", b"")))
    waiting = asyncio.create_task(publisher.publish(Outgoing(f"{stream}.b", b"")))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert (await waiting).seq == 2
    assert publisher._waiting == {}


async def test_an_acknowledgement_from_before_a_kill_is_not_waited_for_longer_than_said(
    fresh_nats: BackgroundStack,
):
    connection = await connect(fresh_nats.nats_url, "tests")
    await connection.jetstream_api("STREAM.CREATE.K", {"name": "K", "subjects": ["k.>"], "allow_atomic": True})
    publisher = await Publisher(connection).start()
    assert (await publisher.publish(Outgoing("k.1", b"", 0))).seq == 1
    fresh_nats.kill("nats")
    results = await publisher.publish_all([Outgoing("k.2", b"", 0)] * 3, timeout_s=0.5)
    assert all(isinstance(result, int | WrongLastSequence | BusUnavailable | StreamMissing) for result in results)
    fresh_nats.wait_ready("nats")
    async with asyncio.timeout(60):
        while True:
            try:
                ack = await publisher.publish(Outgoing("k.3", b"", message_id="k.3"), timeout_s=0.5)
            except (BusUnavailable, StreamMissing):
                continue
            break
    assert ack.seq in {2, 3}
    await connection.close()


async def test_in_order_every_message_is_stored_before_the_one_acknowledgement(
    bus: Connection, publisher: Publisher, stream: str
):
    await publisher.publish_in_order([])
    await publisher.publish_in_order(outgoing(stream, 300))
    assert [payload for _, payload in await stored(bus, stream)] == [b"%d" % number for number in range(300)]


@pytest.mark.parametrize("taken", [0, 2, 4])
async def test_in_order_a_taken_subject_is_no_error(
    bus: Connection, publisher: Publisher, make_stream: MakeStream, taken: int
):
    stream = await make_stream(**ONE_PER_SUBJECT)
    await publisher.publish(Outgoing(f"{stream}.{taken}", b"first"))
    with pytest.raises(SubjectTaken, match="maximum messages per subject exceeded"):
        await publisher.publish(Outgoing(f"{stream}.{taken}", b"second"))
    await publisher.publish_in_order(outgoing(stream, 5))
    held = dict(await stored(bus, stream))
    assert held == {f"{stream}.{n}": b"first" if n == taken else b"%d" % n for n in range(5)}


async def test_in_order_another_refusal_of_the_last_is_an_error(publisher: Publisher, stream: str):
    with pytest.raises(WrongLastSequence):
        await publisher.publish_in_order([Outgoing(f"{stream}.a", b""), Outgoing(f"{stream}.a", b"", 0)])


def test_groups_keep_within_a_batch_s_limits():
    small = [Outgoing("s", b"")] * (2 * BATCH_MESSAGES_MAX + 1)
    assert [len(group) for group in _groups(small)] == [BATCH_MESSAGES_MAX, BATCH_MESSAGES_MAX, 1]
    quarter = [Outgoing("s", b"x" * (BATCH_BYTES_MAX // 4))] * 9
    assert [len(group) for group in _groups(quarter)] == [4, 4, 1]
    sizes = (1, BATCH_BYTES_MAX + 1, 1, BATCH_BYTES_MAX, 1)
    groups = list(_groups([Outgoing("s", b"x" * size) for size in sizes]))
    assert [[len(message.payload) for message in group] for group in groups] == [[size] for size in sizes]
    assert list(_groups([])) == []
