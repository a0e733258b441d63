import asyncio
from collections.abc import Sequence

import pytest

from millrace_shared.bus import group_commit
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import WrongLastSequence
from millrace_shared.bus.group_commit import GROUP_MESSAGES_MAX, GroupCommit
from millrace_shared.bus.publisher import ACK_TIMEOUT_S, Outgoing, Publisher
from millrace_shared.errors import BusUnavailable, MillraceError


class CountingPublisher(Publisher):
    """A real publisher that notes the size of each group, and can be held up or made to fail."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.groups: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.bugs: list[Exception] = []

    async def publish_all(
        self, messages: Sequence[Outgoing], timeout_s: float = ACK_TIMEOUT_S
    ) -> list[int | MillraceError]:
        self.groups.append(len(messages))
        await self.open.wait()
        if self.bugs:
            raise self.bugs.pop()
        return await super().publish_all(messages, timeout_s)


@pytest.fixture
async def publisher(bus: Connection) -> CountingPublisher:
    publisher = CountingPublisher(bus)
    await publisher.start()
    return publisher


async def test_a_lone_message_goes_at_once(publisher: CountingPublisher, stream: str):
    assert await GroupCommit(publisher).publish(Outgoing(f"{stream}.a", b"")) == 1
    assert publisher.groups == [1]


async def test_concurrent_callers_share_groups_and_each_gets_its_own_sequence(
    publisher: CountingPublisher, bus: Connection, stream: str
):
    commit = GroupCommit(publisher)
    subjects = [f"{stream}.{number}" for number in range(1200)]
    sequences = await asyncio.gather(*(commit.publish(Outgoing(subject, b"")) for subject in subjects))
    assert publisher.groups == [GROUP_MESSAGES_MAX, GROUP_MESSAGES_MAX, 200]
    for number in (0, 499, 500, 1199):
        found = await bus.jetstream_api(f"STREAM.MSG.GET.{stream}", {"seq": sequences[number]})
        assert found["message"]["subject"] == subjects[number]


async def test_while_one_group_is_on_its_way_the_next_one_gathers(publisher: CountingPublisher, stream: str):
    commit = GroupCommit(publisher)
    publisher.open.clear()
    callers = [asyncio.create_task(commit.publish(Outgoing(f"{stream}.0", b"")))]
    await asyncio.sleep(0)  # the caller hands over
    await asyncio.sleep(0)  # its group leaves
    callers += [asyncio.create_task(commit.publish(Outgoing(f"{stream}.{n}", b""))) for n in range(1, 30)]
    await asyncio.sleep(0)
    publisher.open.set()
    assert await asyncio.gather(*callers) == list(range(1, 31))
    assert publisher.groups == [1, 29]


async def test_an_error_reaches_its_own_caller_and_no_other(publisher: CountingPublisher, stream: str):
    commit = GroupCommit(publisher)
    await commit.publish(Outgoing(f"{stream}.5", b""))
    messages = [Outgoing(f"{stream}.{number}", b"", expected_last_sequence=0) for number in range(20)]
    results = await asyncio.gather(*map(commit.publish, messages), return_exceptions=True)
    assert [number for number, result in enumerate(results) if isinstance(result, WrongLastSequence)] == [5]
    assert sum(isinstance(result, int) for result in results) == 19


async def test_a_caller_that_gives_up_leaves_the_others_alone(publisher: CountingPublisher, stream: str):
    commit = GroupCommit(publisher)
    callers = [asyncio.create_task(commit.publish(Outgoing(f"{stream}.{number}", b""))) for number in range(5)]
    await asyncio.sleep(0)
    callers[2].cancel()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(results[2], asyncio.CancelledError)
    assert sorted(result for result in results if isinstance(result, int)) == [1, 2, 4, 5]


async def test_too_many_waiting_are_refused_and_the_rest_still_goes(
    publisher: CountingPublisher, stream: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(group_commit, "WAITING_MAX", 10)
    commit = GroupCommit(publisher)
    messages = [Outgoing(f"{stream}.{number}", b"") for number in range(12)]
    results = await asyncio.gather(*map(commit.publish, messages), return_exceptions=True)
    assert results[:10] == list(range(1, 11))
    assert [str(result) for result in results[10:]] == ["10 messages wait for NATS already; try again later"] * 2
    assert all(isinstance(result, BusUnavailable) for result in results[10:])
    assert await commit.publish(messages[10]) == 11


async def test_a_bug_in_one_group_is_its_callers_and_the_next_group_goes(publisher: CountingPublisher, stream: str):
    commit = GroupCommit(publisher)
    publisher.bugs.append(ZeroDivisionError())
    messages = [Outgoing(f"{stream}.{number}", b"") for number in range(GROUP_MESSAGES_MAX + 1)]
    async with asyncio.timeout(60):
        results = await asyncio.gather(*map(commit.publish, messages), return_exceptions=True)
    assert [type(result) for result in results[:-1]] == [ZeroDivisionError] * GROUP_MESSAGES_MAX
    assert results[-1] == 1
    await commit.drain()


async def test_drain_returns_when_everything_is_settled(publisher: CountingPublisher, stream: str):
    commit = GroupCommit(publisher)
    await commit.drain()
    callers = [asyncio.create_task(commit.publish(Outgoing(f"{stream}.{number}", b""))) for number in range(600)]
    await asyncio.sleep(0)
    await commit.drain()
    await asyncio.sleep(0)
    assert all(caller.done() for caller in callers)


async def test_drain_can_be_given_up_and_then_loses_nothing(publisher: CountingPublisher, stream: str):
    commit = GroupCommit(publisher)
    publisher.open.clear()
    caller = asyncio.create_task(commit.publish(Outgoing(f"{stream}.0", b"")))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await commit.drain()
    publisher.open.set()
    assert await caller == 1
