"""Drawing work that is known to wait: a request that is answered at once, and so never keeps a slot from other work.

A standing request waits for work to come; a draw takes what is there. The server ends a draw when the consumer has
nothing more, so that places which another runner was faster to fill are free again within a round trip. One inbox
serves all consumers; each has at most one draw under way.
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

ANSWER_S_MAX = 5.0
"""A draw that is not over by then was lost with a server: its places are free again."""
_EMPTY = "404"


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
        self._sent_at = [0.0] * len(consumers)
        self._inbox = ""
        self._subscription: Subscription | None = None
        self.asked = [0] * len(consumers)
        """Messages that each draw under way still asks for, by index."""

    async def start(self) -> None:
        """Open the inbox."""
        self._inbox = self._connection.new_inbox()
        self._subscription = await self._connection.listen(f"{self._inbox}.*", self._on_message)

    async def stop(self) -> None:
        """Close the inbox; call it once what was asked for has come, or its time is up."""
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await self._connection.unlisten(subscription)

    def draw(self, index: int, count: int) -> None:
        """Ask for `count` messages of a consumer, which has no draw under way."""
        assert not self.asked[index]
        self.asked[index] = count
        self._sent_at[index] = time.monotonic()
        body = b'{"batch":%d,"no_wait":true}' % count
        self._connection.send(self._subjects[index], body, f"{self._inbox}.{index}")

    def forget_lost(self, *, everything: bool = False) -> None:
        """End the draws that no answer will come to: the old ones, or all when the connection is a new one."""
        now = time.monotonic()
        for index, count in enumerate(self.asked):
            if count and (everything or now - self._sent_at[index] > ANSWER_S_MAX):
                self._end(index, short=True)

    def _on_message(self, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        if reply:
            index = self._index_of(subject)
            if self.asked[index]:  # else it was given up for lost, and comes after all
                self.asked[index] -= 1
            self._deliver(index, Delivery(self._connection, subject, payload, reply))
            if not self.asked[index]:
                self._on_end(index, False)
        elif headers:
            status, description = status_of(headers)
            if status != _EMPTY:
                log.warning("a draw was refused: %s %s", status, description.strip())
            self._end(int(subject.rpartition(".")[2]), short=True)

    def _end(self, index: int, *, short: bool) -> None:
        if self.asked[index]:
            self.asked[index] = 0
            self._on_end(index, short)
