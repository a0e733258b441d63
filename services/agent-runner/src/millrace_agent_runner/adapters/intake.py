"""Pulling work: one consumer for each kind and lane, all sharing the slots of the process.

The sum of what is delivered and what is asked for never exceeds the slots (`domain/credit.py` divides them), so a
runner is never sent what it cannot start. Work is noticed in one of two ways:

- lanes that are not crowded keep a standing request for one message, which waits for it;
- crowded lanes have none, since each would keep a slot from others. Whoever queues crowded work says so
  (`ctl.crowded`), and twice a second it is looked whether WORK holds anything that is not here: work that comes a
  second time, after its runner has died, is announced by nobody.

What is then known to wait (each delivery says how much is left) is drawn at once (`draws.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from nats.aio.subscription import Subscription

from millrace_agent_runner.adapters.draws import Draws
from millrace_agent_runner.domain.credit import KINDS, UNCROWDED, Turns, crowded_max, divide
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.pull import Delivery, PullLoop
from millrace_shared.bus.streams import work_consumer_name
from millrace_shared.errors import MillraceError
from millrace_shared.lanes import LANES
from millrace_shared.messages import WORK_KINDS

log = logging.getLogger(__name__)

EXPIRES_S = 1.0
"""How long a standing request stays open. Those of a runner that stands still are answered in vain, and what they are
answered with waits for WORK_ACK_WAIT_S: they shall be gone long before the work of another runner comes again."""
LOOK_S = 0.5
"""How often it is looked for crowded work that nobody announced. With the wait for an acknowledgement it bounds how
long an attempt lies there when its runner has died."""
REFUSED_WAIT_S = 0.3
_SHORT_REPLY_TOKENS = 9
_CONSUMERS = [(kind, lane) for lane in LANES for kind in WORK_KINDS]
_INDEX: dict[tuple[str, str], int] = {pair: index for index, pair in enumerate(_CONSUMERS)}
_FIRST_CROWDED = UNCROWDED * KINDS


class Taken(NamedTuple):
    """A delivered work message, and the consumer that it counts for."""

    delivery: Delivery
    source: int


@dataclass(slots=True)
class _Source:
    """What is known of one consumer.

    Attributes:
        standing: the loop that keeps its standing request; None in a crowded lane.
        taken: its messages that are delivered and not released.
        waiting: messages that it is known to hold, those that are asked for included.
        announced: more work was announced while a draw was under way.
    """

    standing: PullLoop | None
    taken: int = 0
    waiting: int = 0
    announced: bool = False


class Intake:
    """Brings work within the free slots.

    Args:
        connection: the bus.
        slots: most attempts at the same time.
        deliver: called for each work message, from the read loop. Each is given back by `release`.
    """

    def __init__(self, connection: Connection, slots: int, deliver: Callable[[Taken], None]) -> None:
        self._connection = connection
        self._slots = slots
        self._deliver = deliver
        self._turns = Turns()
        self._dividing = False
        self._stopped = False
        self._looking: asyncio.Task[None] | None = None
        self._bell: Subscription | None = None
        names = [work_consumer_name(kind, lane) for kind, lane in _CONSUMERS]
        self._draws = Draws(connection, names, _index_of, self._received, self._drawn)
        self._sources = [_Source(self._loop(index, name)) for index, name in enumerate(names)]

    async def start(self) -> None:
        """Ask for work."""
        await self._draws.start()
        self._bell = await self._connection.listen(subjects.crowded_control("*", "*"), self._on_crowded)
        self._connection.on_reconnect.append(self._restart)
        for source in self._sources:
            if source.standing is not None:
                await source.standing.start()
        self._suspect_crowded()
        self._looking = asyncio.create_task(self._look(), name="look for crowded work")

    async def stop(self) -> None:
        """Ask for no more. What was delivered still has to be given back."""
        self._stopped = True
        with contextlib.suppress(ValueError):
            self._connection.on_reconnect.remove(self._restart)
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        if self._bell is not None:
            await self._connection.unlisten(self._bell)
        for source in self._sources:
            if source.standing is not None:
                await source.standing.stop()
        await self._draws.stop()

    @property
    def committed(self) -> int:
        """Slots that are taken or asked for; never more than there are."""
        return self._demand()[0]

    def release(self, taken: Taken) -> None:
        """Give a slot back."""
        self._sources[taken.source].taken -= 1
        self._divide_soon()

    def _loop(self, index: int, name: str) -> PullLoop | None:
        if index >= _FIRST_CROWDED:
            return None

        def deliver(delivery: Delivery) -> None:
            loop = self._sources[index].standing
            assert loop is not None
            loop.capacity = 0  # whether it asks again is for the division to say, not for the loop
            loop.release()
            self._received(index, delivery)

        return PullLoop(self._connection, "WORK", name, deliver, capacity=1, expires_s=EXPIRES_S)

    def _received(self, index: int, delivery: Delivery) -> None:
        source = self._sources[index]
        source.taken += 1
        source.waiting = _left(delivery.reply)
        if source.standing is None and not source.waiting and delivery.delivered_count > 1:
            # What comes again is not counted among what is left, and a runner that died had seldom just one attempt.
            source.waiting = 1
        self._divide_soon()
        self._deliver(Taken(delivery, index))

    def _drawn(self, index: int, short: bool) -> None:
        """A draw is over. It came short: the consumer holds no more than what was announced meanwhile."""
        source = self._sources[index]
        if short:
            source.waiting = 1 if source.announced else 0
        self._divide_soon()

    def _on_crowded(self, subject: str, _reply: str, _headers: bytes, _payload: bytes) -> None:
        _, _, kind, lane = subject.split(".", 3)
        index = _INDEX.get((kind, lane))
        if index is not None and index >= _FIRST_CROWDED:  # else it is meant for a later version
            source = self._sources[index]
            source.announced = True
            source.waiting = max(source.waiting, 1)
            self._divide_soon()

    # The division.

    def _divide_soon(self) -> None:
        """Divide once for all that happens in this round of the loop."""
        if not self._dividing:
            self._dividing = True
            asyncio.get_running_loop().call_soon(self._divide)

    def _divide(self) -> None:
        self._dividing = False
        if self._stopped or not self._connection.is_connected:  # a new connection divides anew
            return
        committed, crowded, wanted = self._demand()
        free = self._slots - committed
        if free <= 0:
            return
        given = divide(free, crowded_max(self._slots) - crowded, wanted, self._turns)
        refused = False
        for index, count in enumerate(given):
            if count:
                refused |= not self._ask(index, count)
        if refused:
            asyncio.get_running_loop().call_later(REFUSED_WAIT_S, self._divide_soon)

    def _demand(self) -> tuple[int, int, list[int]]:
        """Return the slots that are taken or asked for, those of them for crowded work, and what each could use more.

        One pass, since it is made for every few steps.
        """
        committed = crowded = 0
        wanted = []
        for source, drawing in zip(self._sources, self._draws.asked, strict=True):
            committed += source.taken + drawing
            if source.standing is None:
                crowded += source.taken + drawing
                wanted.append(max(0, source.waiting - drawing))
                continue
            standing = source.standing.asked
            committed += standing
            wanted.append(max(0 if standing else 1, source.waiting - standing - drawing))
        return committed, crowded, wanted

    def _ask(self, index: int, count: int) -> bool:
        """Ask a consumer for messages, one by the standing request if that is missing.

        Returns False when the standing request cannot be made now. The rest, when it cannot be drawn now, is divided
        again with the end of the draws that are under way.
        """
        source, loop = self._sources[index], self._sources[index].standing
        stands = True
        if loop is not None and not loop.asked:
            loop.capacity = 1
            loop.request()
            stands = loop.asked > 0  # not while the loop is pausing after a refusal
            count -= 1
        if count and self._draws.draw(index, count):
            source.announced = False
        return stands

    # What is not announced.

    def _suspect_crowded(self) -> None:
        for source in self._sources[_FIRST_CROWDED:]:
            source.waiting = max(source.waiting, 1)
        self._divide_soon()

    def _restart(self) -> None:
        """The connection is new: requests of the old one are gone, and announcements were missed."""
        self._draws.forget_lost(everything=True)
        self._suspect_crowded()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._draws.forget_lost()
            if self.committed >= self._slots or not self._connection.is_connected:
                continue
            try:
                info = await self._connection.jetstream_api("STREAM.INFO.WORK")
            except MillraceError as error:
                log.debug("WORK does not answer: %s", error)
                continue
            if info["state"]["messages"] > sum(source.taken for source in self._sources):
                self._suspect_crowded()


def _index_of(subject: str) -> int:
    """Return the index of the consumer that delivers a work subject."""
    _, kind, lane, _ = subject.split(".", 3)
    return _INDEX[kind, lane]


def _left(reply: str) -> int:
    """Return how many messages wait for the consumer, from the subject that acknowledges one of them.

    $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<token>]
    """
    tokens = reply.split(".")
    return int(tokens[8] if len(tokens) == _SHORT_REPLY_TOKENS else tokens[10])
