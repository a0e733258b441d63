"""Drawing work that is known to wait: a request that is answered at once, and so never keeps a slot from other work.

A standing request waits for work to come; a draw takes what is there. The server ends a draw when the consumer has
nothing more, so that places which another runner was faster to fill are free again within a round trip.

A consumer may have a few draws under way, so that slots which become free meanwhile need not wait for an answer. The
server serves them in turns, and a delivery does not say which draw it is for: so each has an inbox of its own, which
serves all consumers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from nats.aio.subscription import Subscription

from millrace_shared.bus.connection import Connection
from millrace_shared.bus.headers import status_of
from millrace_shared.bus.pull import Delivery

log = logging.getLogger(__name__)

CHANNELS = 4
"""Most draws of one consumer at the same time."""
ANSWER_S_MAX = 5.0
"""A draw that is not over by then was lost with a server: its places are free again."""
_NO_MORE = frozenset({"404", "408"})


class Draws:
    """Draws from the consumers of WORK.

    Args:
        connection: the bus.
        consumers: names of the durables; draws go by the index.
        index_of: tells from a work subject which of them it came from.
        deliver: called with the index and each message, from the read loop.
        on_end: called with the index, and whether the consumer had less than was asked for, when a draw is over.
    """

    def __init__(
        self,
        connection: Connection,
        consumers: Sequence[str],
        index_of: Callable[[str], int],
        deliver: Callable[[int, Delivery], None],
        on_end: Callable[[int, bool], None],
    ) -> None:
        self._connection = connection
        self._subjects = [f"$JS.API.CONSUMER.MSG.NEXT.WORK.{name}" for name in consumers]
        self._index_of = index_of
        self._deliver = deliver
        self._on_end = on_end
        self._channels = [_Channel(len(consumers)) for _ in range(CHANNELS)]
        self.asked = [0] * len(consumers)
        """Messages that the draws under way still ask for, by index."""

    async def start(self) -> None:
        """Open the inboxes."""
        for channel in self._channels:
            channel.inbox = self._connection.new_inbox()
            channel.subscription = await self._connection.listen(f"{channel.inbox}.*", self._listener(channel))

    async def stop(self) -> None:
        """Close the inboxes."""
        for channel in self._channels:
            if channel.subscription is not None:
                subscription, channel.subscription = channel.subscription, None
                await self._connection.unlisten(subscription)

    def draw(self, index: int, count: int) -> bool:
        """Ask for `count` messages of a consumer. Returns False when as many draws as may be are under way."""
        for channel in self._channels:
            if not channel.asked[index]:
                channel.asked[index] = count
                channel.sent_at[index] = time.monotonic()
                self.asked[index] += count
                body = b'{"batch":%d,"no_wait":true}' % count
                self._connection.send(self._subjects[index], body, f"{channel.inbox}.{index}")
                return True
        return False

    def forget_lost(self, *, everything: bool = False) -> None:
        """End the draws that no answer will come to: the old ones, or all when the connection is a new one."""
        now = time.monotonic()
        for channel in self._channels:
            for index, count in enumerate(channel.asked):
                if count and (everything or now - channel.sent_at[index] > ANSWER_S_MAX):
                    self._end(channel, index)

    def _listener(self, channel: _Channel) -> Callable[[str, str, bytes, bytes], None]:
        def listen(subject: str, reply: str, headers: bytes, payload: bytes) -> None:
            if reply:
                index = self._index_of(subject)
                if channel.asked[index]:  # else it was given up for lost, and comes after all
                    channel.asked[index] -= 1
                    self.asked[index] -= 1
                self._deliver(index, Delivery(self._connection, subject, payload, reply))
                if not channel.asked[index]:
                    self._on_end(index, False)
            elif headers:
                status, description = status_of(headers)
                if status not in _NO_MORE:
                    log.warning("a draw was refused: %s %s", status, description.strip())
                self._end(channel, int(subject.rpartition(".")[2]))

        return listen

    def _end(self, channel: _Channel, index: int) -> None:
        """A draw is over, and came short."""
        if channel.asked[index]:
            self.asked[index] -= channel.asked[index]
            channel.asked[index] = 0
            self._on_end(index, True)


class _Channel:
    """One draw of each consumer, all with one inbox."""

    def __init__(self, consumers: int) -> None:
        self.inbox = ""
        self.subscription: Subscription | None = None
        self.asked = [0] * consumers
        self.sent_at = [0.0] * consumers
