"""Pulling work: one loop for each kind and priority, all sharing the slots of the process.

The sum of what is delivered and what is asked for never exceeds the slots (`domain/credit.py` divides them), so a
runner is never sent what it cannot start. A loop's `capacity` is its means: between divisions it allows the standing
request and no more, so a request that runs out is renewed without anybody's doing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from millrace_agent_runner.domain.credit import STANDING, divide
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.pull import Delivery, PullLoop
from millrace_shared.bus.streams import work_consumer_name
from millrace_shared.messages import PRIORITIES, WORK_KINDS

EXPIRES_S = 12.0
"""How long a request stays open. Short, since places asked for by one consumer are lost to the others meanwhile."""

REFUSED_WAIT_S = 0.3
_SHORT_REPLY_TOKENS = 9


class Taken(NamedTuple):
    """A delivered work message, and the consumer whose place it holds."""

    delivery: Delivery
    source: int


@dataclass(slots=True)
class _Source:
    loop: PullLoop
    rank: int
    backlog: int = 0


class Intake:
    """Brings work within the free slots.

    Args:
        connection: the bus.
        slots: most attempts at the same time.
        deliver: called for each work message, from the read loop. Each is given back by `release`.
    """

    def __init__(self, connection: Connection, slots: int, deliver: Callable[[Taken], None]) -> None:
        self._slots = slots
        self._deliver = deliver
        self._sources: list[_Source] = []
        self._dividing = False
        self._stopped = False
        self._turn = 0
        for rank, priority in enumerate(PRIORITIES):
            for kind in WORK_KINDS:
                name = work_consumer_name(kind, priority)
                receive = self._receiver(len(self._sources))
                loop = PullLoop(connection, "WORK", name, receive, capacity=STANDING, expires_s=EXPIRES_S)
                self._sources.append(_Source(loop, rank))

    async def start(self) -> None:
        """Ask for work."""
        for source in self._sources:
            await source.loop.start()

    async def stop(self) -> None:
        """Ask for no more. What was delivered still has to be given back."""
        self._stopped = True
        for source in self._sources:
            await source.loop.stop()

    @property
    def committed(self) -> int:
        """Slots that are taken or asked for; never more than there are."""
        return sum(source.loop.taken + source.loop.asked for source in self._sources)

    def release(self, taken: Taken) -> None:
        """Give a slot back."""
        loop = self._sources[taken.source].loop
        loop.capacity = 0  # the freed slot is divided among all, so this loop must not ask for it by itself
        loop.release()
        self._divide_soon()

    def _receiver(self, index: int) -> Callable[[Delivery], None]:
        def receive(delivery: Delivery) -> None:
            self._sources[index].backlog = _left(delivery.reply)
            self._divide_soon()
            self._deliver(Taken(delivery, index))

        return receive

    def _divide_soon(self) -> None:
        """Divide once for all that happens in this round of the loop."""
        if not self._dividing:
            self._dividing = True
            asyncio.get_running_loop().call_soon(self._divide)

    def _divide(self) -> None:
        self._dividing = False
        if self._stopped:
            return
        sources = self._sources
        self._turn += 1
        asked = [source.loop.asked for source in sources]
        free = self._slots - sum(asked) - sum(source.loop.taken for source in sources)
        extra = divide(
            free, asked, [source.backlog for source in sources], [source.rank for source in sources], self._turn
        )
        refused = False
        for source, more in zip(sources, extra, strict=True):
            loop = source.loop
            if more:
                loop.capacity = loop.taken + loop.asked + more
                before = loop.asked
                loop.request()
                source.backlog = max(0, source.backlog - more)
                if loop.asked == before:  # the loop is pausing after a refusal
                    refused = True
            loop.capacity = loop.taken + (STANDING if loop.asked else 0)
        if refused:
            asyncio.get_running_loop().call_later(REFUSED_WAIT_S, self._divide_soon)


def _left(reply: str) -> int:
    """Return how many messages wait for the consumer, from the subject that acknowledges one of them.

    $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<token>]
    """
    tokens = reply.split(".")
    return int(tokens[8] if len(tokens) == _SHORT_REPLY_TOKENS else tokens[10])
