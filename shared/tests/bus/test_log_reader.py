from collections.abc import Awaitable, Callable

import pytest

from millrace_shared import subjects
from millrace_shared.bus import log_reader
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import StreamMissing
from millrace_shared.bus.log_reader import (
    PAGE_BYTES,
    PAGE_MESSAGES,
    Stored,
    holds_any,
    read_last,
    read_last_of_each,
    read_log,
    read_page,
    read_subject,
)
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.streams import MESSAGE_BYTES_MAX
from millrace_shared.errors import BusUnavailable
from millrace_shared.ids import new_id

Store = Callable[..., Awaitable[list[int]]]


async def test_a_log_is_read_whole_in_order_and_nobody_else_s(product_bus: Connection):
    publisher = await Publisher(product_bus).start()
    mine, other = new_id(), new_id()
    count = 2 * PAGE_MESSAGES + 1
    both = [Outgoing(subjects.log(name), b"%d" % number) for number in range(count) for name in (mine, other)]
    await publisher.publish_all(both)
    log = await read_log(product_bus, mine)
    assert [int(stored.payload) for stored in log] == list(range(count))
    assert {stored.subject for stored in log} == {subjects.log(mine)}
    assert [stored.sequence for stored in log] == list(range(1, 2 * count, 2))


async def test_an_execution_without_a_log_has_an_empty_one(product_bus: Connection):
    assert await read_log(product_bus, new_id()) == []


async def test_the_leader_tells_what_is_there_and_what_is_gone(product_bus: Connection):
    publisher = await Publisher(product_bus).start()
    subject = subjects.log(new_id())
    assert not await holds_any(product_bus, "EVENTS", subject)
    await publisher.publish(Outgoing(subject, b"1"))
    assert await holds_any(product_bus, "EVENTS", subject)
    await product_bus.jetstream_api("STREAM.PURGE.EVENTS", {"filter": subject})
    assert not await holds_any(product_bus, "EVENTS", subject)
    with pytest.raises(StreamMissing):
        await holds_any(product_bus, "NONE", subject)


@pytest.mark.parametrize("count", [PAGE_MESSAGES - 1, PAGE_MESSAGES, PAGE_MESSAGES + 1])
async def test_the_border_of_a_page_loses_nothing(bus: Connection, stream: str, store: Store, count: int):
    sequences = await store(f"{stream}.a", count)
    assert [stored.sequence async for stored in read_subject(bus, stream, f"{stream}.a")] == sequences


async def test_one_page_is_as_long_as_it_is_asked_to_be(bus: Connection, stream: str, store: Store):
    sequences = await store(f"{stream}.a", 5)
    assert [one.sequence for one in await read_page(bus, stream, f"{stream}.*", 2, 3)] == sequences[1:4]
    assert [one.sequence for one in await read_page(bus, stream, f"{stream}.*", 5, 3)] == sequences[4:]
    assert await read_page(bus, stream, f"{stream}.*", 6, 3) == []


async def test_large_messages_are_read_over_several_pages(bus: Connection, publisher: Publisher, stream: str):
    """The largest message that a stream takes is larger than a page."""
    sizes = (1, PAGE_BYTES // 2, PAGE_BYTES // 2, MESSAGE_BYTES_MAX, 1, PAGE_BYTES, MESSAGE_BYTES_MAX)
    for size in sizes:
        await publisher.publish(Outgoing(f"{stream}.a", b"x" * size))
    read = [len(stored.payload) async for stored in read_subject(bus, stream, f"{stream}.a")]
    assert tuple(read) == sizes


async def test_reading_starts_where_it_is_told_and_takes_wildcards(bus: Connection, stream: str, store: Store):
    for name in ("a", "b", "a"):
        await store(f"{stream}.{name}", 2)
    read = [(one.subject, one.sequence) async for one in read_subject(bus, stream, f"{stream}.*", 3)]
    assert read == [(f"{stream}.b", 3), (f"{stream}.b", 4), (f"{stream}.a", 5), (f"{stream}.a", 6)]
    assert [one.sequence async for one in read_subject(bus, stream, f"{stream}.a", 3)] == [5, 6]
    assert [one async for one in read_subject(bus, stream, f"{stream}.>", 7)] == []


async def test_a_reader_that_stops_early_leaves_nothing_behind(bus: Connection, stream: str, store: Store):
    await store(f"{stream}.a", 3)
    listeners = dict(bus._listeners)
    reading = read_subject(bus, stream, f"{stream}.a")
    assert (await anext(reading)).sequence == 1
    await reading.aclose()
    assert bus._listeners == listeners


async def test_the_last_message_of_a_subject(bus: Connection, stream: str, store: Store):
    assert await read_last(bus, stream, f"{stream}.a") is None
    await store(f"{stream}.a", 3)
    await store(f"{stream}.b", 1)
    assert await read_last(bus, stream, f"{stream}.a") == Stored(f"{stream}.a", 3, b"2")


async def test_an_empty_message_is_read_as_one(bus: Connection, publisher: Publisher, stream: str):
    await publisher.publish(Outgoing(f"{stream}.a", b""))
    assert await read_last(bus, stream, f"{stream}.a") == Stored(f"{stream}.a", 1, b"")
    assert [one.payload async for one in read_subject(bus, stream, f"{stream}.a")] == [b""]


async def test_the_last_of_each_subject_in_stream_order(bus: Connection, stream: str, store: Store):
    for name in ("b", "a", "c", "b"):
        await store(f"{stream}.{name}", 1)
    names = [f"{stream}.{name}" for name in ("a", "b", "missing")]
    found = await read_last_of_each(bus, stream, names)
    assert [(stored.subject, stored.sequence) for stored in found] == [(f"{stream}.a", 2), (f"{stream}.b", 4)]
    assert await read_last_of_each(bus, stream, [f"{stream}.missing"]) == []
    assert await read_last_of_each(bus, stream, []) == []


async def test_the_last_of_more_subjects_than_a_page_holds(bus: Connection, publisher: Publisher, stream: str):
    names = [f"{stream}.{number}" for number in range(PAGE_MESSAGES + 3)]
    await publisher.publish_all([Outgoing(name, b"") for name in names])
    assert [stored.subject for stored in await read_last_of_each(bus, stream, names)] == names


async def test_a_stream_that_is_not_there_is_unavailable(bus: Connection):
    """It may be about to be made: whoever reads tries again."""
    with pytest.raises(BusUnavailable, match="stream NOT_THERE cannot be read: 503"):
        await read_last(bus, "NOT_THERE", "a")
    with pytest.raises(BusUnavailable):
        assert [one async for one in read_subject(bus, "NOT_THERE", "a")]


async def test_a_silent_server_is_given_up(bus: Connection, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log_reader, "READ_TIMEOUT_S", 0.05)
    listeners = dict(bus._listeners)
    subscription = await bus.listen("$JS.API.DIRECT.GET.SILENT", lambda *_: None)
    with pytest.raises(BusUnavailable, match=r"stream SILENT did not answer a read within 0.05 s"):
        await read_last(bus, "SILENT", "a")
    await bus.unlisten(subscription)
    assert bus._listeners == listeners
