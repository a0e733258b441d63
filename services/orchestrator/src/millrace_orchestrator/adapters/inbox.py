"""The inbox: sixteen partitions, each pulled by the one orchestrator that the server has pinned to it.

A pin is an optimisation: it keeps an execution's state in one memory. What makes two writers harmless is the fence of
the journal.

An execution's start message is acknowledged when the execution ends: it is the lease on it (ADR 0004). So everything
active lies behind the consumer's acknowledgement floor, and a start there whose log has no end is active. A partition
is scanned for these, and what they wait for is done again, when this process starts, when it becomes the holder, when
the server has lost its memory, and when another holder was given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
from nats.aio.subscription import Subscription

from millrace_orchestrator import metrics
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.log_reader import PAGE_MESSAGES, Stored, read_last_of_logs, read_subject
from millrace_shared.bus.pull import Delivery, PullLoop
from millrace_shared.bus.streams import INBOX_GROUP, PIN_TTL_S
from millrace_shared.codec import decode_transition
from millrace_shared.errors import BusUnavailable, MessageInvalid
from millrace_shared.ids import PARTITION_COUNT
from millrace_shared.messages import ExecutionFinished

log = logging.getLogger(__name__)

CAPACITY = 256
"""Messages of one partition that are delivered and not yet decided."""
PULL_EXPIRES_S = PIN_TTL_S * 2 / 3
"""A holder asks again before its pin runs out."""
SCAN_RETRY_S = 1.0
_GROUP = b'{"group":"%b"}' % INBOX_GROUP.encode()
UNPINNED = "$JS.EVENT.ADVISORY.CONSUMER.UNPINNED.INBOX.*"


class Arrival(msgspec.Struct, frozen=True):
    """Something to decide on: a delivered message, or (`delivery` is None) one found by a scan or a timer of our own.

    `again` says that it may have been handled before, by a process that did not get to the end of it.
    """

    subject: str
    payload: bytes
    delivery: Delivery | None = None
    again: bool = False


class Recipient(Protocol):
    """Who the inbox delivers to."""

    def arrive(self, arrival: Arrival, *, under_way: bool = False) -> None:
        """Take in something to decide on. `under_way`: a start whose execution is known to have begun."""

    def lose(self, partition: int) -> None:
        """A partition is another's now: forget what was delivered of it."""


def is_start(subject: str) -> bool:
    """Whether an inbox subject is that of a start, the lease on its execution."""
    return subject.endswith(".start")


class Inbox:
    """Delivers every partition's messages to the recipient."""

    def __init__(self, connection: Connection, recipient: Recipient) -> None:
        self._connection = connection
        self._recipient = recipient
        self._loops: list[PullLoop] = []
        self._scans: dict[int, asyncio.Task[None]] = {}
        self._advisories: Subscription | None = None

    async def start(self) -> None:
        """Scan what is active, and start to pull."""
        for partition in range(PARTITION_COUNT):
            loop = PullLoop(
                self._connection,
                "INBOX",
                f"inbox-{partition}",
                self._delivered,
                capacity=CAPACITY,
                group=INBOX_GROUP,
                on_pinned=self._pinned(partition),
                expires_s=PULL_EXPIRES_S,
            )
            self._loops.append(loop)
            await loop.start()
        self._advisories = await self._connection.listen(UNPINNED, self._unpinned)
        self._connection.on_reconnect.append(self._scan_all)
        self._scan_all()

    async def stop(self) -> None:
        """Pull nothing more, and give up the pins, so that another need not wait for them to run out."""
        with contextlib.suppress(ValueError):
            self._connection.on_reconnect.remove(self._scan_all)
        if self._advisories is not None:  # of our own pins, too, which are given up below
            await self._connection.unlisten(self._advisories)
        for loop in self._loops:
            await loop.stop()
        for scan in self._scans.values():
            scan.cancel()
        await asyncio.gather(*self._scans.values(), return_exceptions=True)
        for partition, loop in enumerate(self._loops):
            if loop.pinned:
                self._connection.send(f"$JS.API.CONSUMER.UNPIN.INBOX.inbox-{partition}", _GROUP)

    def release(self, partition: int, count: int = 1) -> None:
        """Delivered messages of `partition`, other than starts, have been decided."""
        self._loops[partition].release(count)

    def _delivered(self, delivery: Delivery) -> None:
        if is_start(delivery.subject):  # it may wait long for its turn, and must not hold up what comes after it
            self.release(subjects.partition_in(delivery.subject))
        again = delivery.delivered_count > 1
        self._recipient.arrive(Arrival(delivery.subject, delivery.payload, delivery, again=again))

    def _pinned(self, partition: int) -> Callable[[bool], None]:
        def changed(is_holder: bool) -> None:
            if is_holder:
                self._scan(partition)
            else:
                log.info("partition %d is another's now", partition)
                self._recipient.lose(partition)

        return changed

    def _unpinned(self, subject: str, _reply: str, _headers: bytes, _payload: bytes) -> None:
        consumer = subject.rsplit(".", 1)[1]
        self._scan(int(consumer.rsplit("-", 1)[1]))

    def _scan_all(self) -> None:
        for partition in range(PARTITION_COUNT):
            self._scan(partition)

    def _scan(self, partition: int) -> None:
        running = self._scans.get(partition)
        if running is None or running.done():
            self._scans[partition] = asyncio.create_task(self._take_over(partition), name=f"scan {partition}")

    async def _take_over(self, partition: int) -> None:
        """Hand over the start of everything active in the partition, as if it had been delivered again."""
        while True:
            count = 0
            try:
                async for active in active_starts(self._connection, partition):
                    arrival = Arrival(active.start.subject, active.start.payload, again=True)
                    self._recipient.arrive(arrival, under_way=active.begun)
                    count += 1
            except (BusUnavailable, BusRefused) as error:
                log.warning("partition %d cannot be scanned, trying again: %s", partition, error)
                await asyncio.sleep(SCAN_RETRY_S)
            else:
                metrics.takeovers.inc()
                if count:
                    log.info("partition %d: %d active executions are looked at again", partition, count)
                return


@dataclass(frozen=True, slots=True)
class Active:
    """An active execution's start. `begun` says that it has a log."""

    start: Stored
    begun: bool


async def active_starts(connection: Connection, partition: int) -> AsyncIterator[Active]:
    """Yield the start messages of a partition's active executions.

    Raises:
        BusUnavailable, BusRefused: the server does not answer, or has no such consumer yet.
    """
    info = await connection.jetstream_api(f"CONSUMER.INFO.INBOX.inbox-{partition}")
    floor = int(info["ack_floor"]["stream_seq"])
    page: list[Stored] = []
    async for stored in read_subject(connection, "INBOX", f"in.{partition}.*.start", floor + 1):
        page.append(stored)
        if len(page) == PAGE_MESSAGES:
            for active in await _without_end(connection, page):
                yield active
            page = []
    for active in await _without_end(connection, page):
        yield active


async def _without_end(connection: Connection, starts: list[Stored]) -> list[Active]:
    """Return those starts whose execution's log has no end."""
    by_log = {subjects.log(subjects.execution_id_of(start.subject)): Active(start, begun=False) for start in starts}
    for last in await read_last_of_logs(connection, map(subjects.execution_id_of, by_log)):
        try:
            ended = isinstance(decode_transition(last.payload).events[-1], ExecutionFinished)
        except MessageInvalid:
            ended = False
        if ended:
            by_log.pop(last.subject, None)
        elif last.subject in by_log:
            by_log[last.subject] = Active(by_log[last.subject].start, begun=True)
    return list(by_log.values())
