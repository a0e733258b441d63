"""What cannot be projected: poison, logs of a later version, messages that are gone, another stream."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.ids import new_id
from millrace_shared.messages import (
    StepCompleted,
    Transition,
)
from millrace_shared.testing.logs import interleaved, simple_log
from millrace_shared.testing.services import http_get
from millrace_telemetry.adapters.follower import Message
from millrace_telemetry.adapters.graveyard import Graveyard
from millrace_telemetry.bootstrap import serve
from millrace_telemetry.rebuild import rebuild
from millrace_telemetry.settings import TelemetrySettings

Append = Callable[[list[Transition]], Awaitable[int]]
Eventually = Callable[[Callable[[], Awaitable[bool]], str], Awaitable[None]]


async def test_poison_is_buried_with_its_reason_and_passed_over(
    settings: TelemetrySettings, tables: Any, append: Append, publisher: Publisher, metric: Any, dead_letters: Any
) -> None:
    good, other = simple_log(new_id()), simple_log(new_id())
    forged = Transition(1, new_id(), 1, 1.0, ())
    too_large = Transition(1, new_id(), 1, 1.0, (StepCompleted("a", 2**40),))
    before = metric("dead_total")
    await append(good[:2])
    await publisher.publish(Outgoing(subjects.log(other[0].execution_id), b"\xff not json"))
    await publisher.publish(Outgoing(subjects.log(other[0].execution_id), encode(forged)))
    await append([too_large])
    last = await append([*good[2:], *other])
    async with serve(settings):
        await tables.reach(last)
    await tables.assert_show([*good, *other])
    letters = await dead_letters("EVENTS")
    assert [letter.sequence for letter in letters] == [3, 4, 5]
    assert letters[0].payload == b"\xff not json"
    assert "stands on" in letters[1].reason
    assert "Postgres refuses a value" in letters[2].reason
    assert {letter.service for letter in letters} == {"telemetry"}
    assert metric("dead_total") - before == 3
    await rebuild(settings)
    await tables.assert_show([*good, *other])
    assert await dead_letters("EVENTS") == letters
    assert metric("dead_total") - before == 3


async def test_a_stream_that_was_replaced_has_poison_of_its_own(
    bus: Connection, publisher: Publisher, dead_letters: Any
) -> None:
    graveyard = Graveyard(bus, publisher, "EVENTS")
    subject = subjects.log(new_id())
    buried = [await graveyard.bury(Message(7, subject, payload), "no") for payload in (b"a", b"a", b"b", b"b")]
    assert buried == [True, False, True, False]
    assert [letter.payload for letter in await dead_letters("EVENTS")] == [b"a", b"b"]


async def test_a_log_of_a_later_version_is_waited_for_and_not_passed_over(
    settings: TelemetrySettings,
    tables: Any,
    append: Append,
    publisher: Publisher,
    eventually: Eventually,
    caplog: pytest.LogCaptureFixture,
    dead_letters: Any,
) -> None:
    log = simple_log(new_id())
    await append(log[:2])
    await publisher.publish(Outgoing(subjects.log(new_id()), b'{"v":99}'))
    await append(log[2:])

    async def said_often() -> bool:
        return caplog.text.count("log version 99 is newer") > 1

    async with serve(settings):
        await eventually(said_often, "the reason is said, and it is tried again")
    assert await dead_letters("EVENTS") == []


async def test_messages_that_the_stream_holds_no_more_are_counted_and_passed_over(
    settings: TelemetrySettings,
    tables: Any,
    append: Append,
    bus: Connection,
    caplog: pytest.LogCaptureFixture,
    metric: Any,
) -> None:
    logs = [simple_log(new_id()) for _ in range(3)]
    before = metric("missing_total")
    await append([*logs[0], *logs[1]])
    last = await append(logs[2])
    config = (await bus.jetstream_api("STREAM.INFO.EVENTS"))["config"]
    await bus.jetstream_api("STREAM.UPDATE.EVENTS", {**config, "max_msgs": len(logs[1]) + len(logs[2])})
    async with serve(settings):
        await tables.reach(last)
    await tables.assert_show([*logs[1], *logs[2]])
    assert metric("missing_total") - before == 4
    assert (
        "EVENTS does not hold its messages 1 to 4 any more: they expired with their logs, or were lost" in caplog.text
    )


async def test_many_expired_logs_are_told_of_once(
    settings: TelemetrySettings, tables: Any, append: Append, caplog: pytest.LogCaptureFixture, metric: Any, expire: Any
) -> None:
    logs = [simple_log(new_id()) for _ in range(9)]
    last = await append(interleaved(Random(5), logs[:8]) + logs[8])
    await expire(logs[:4])
    before = metric("missing_total")
    async with serve(settings):
        await tables.reach(last)
    assert metric("missing_total") - before == sum(map(len, logs[:4]))
    assert caplog.text.count("does not hold its messages") == 1


async def test_another_stream_than_the_projected_one_is_refused(
    settings: TelemetrySettings, tables: Any, append: Append, eventually: Eventually
) -> None:
    await append(simple_log(new_id()))
    await tables.pool.execute("UPDATE telemetry.offsets SET sequence = 1000 WHERE stream = 'EVENTS'")
    async with serve(settings) as ops:

        async def refused() -> bool:
            status, body = await http_get(ops.port, "/readyz")
            return status == 503 and "EVENTS ends at 4, but is projected up to 1000" in body

        await eventually(refused, "not ready, because the stream is shorter than the offset")
        await tables.pool.execute(
            "UPDATE telemetry.offsets SET sequence = 2, subject = 'ev.0.x' WHERE stream = 'EVENTS'"
        )

        async def other() -> bool:
            return "is not the one that was projected" in (await http_get(ops.port, "/readyz"))[1]

        await eventually(other, "not ready, because another message is there")
    assert await tables.rows("executions") == []
