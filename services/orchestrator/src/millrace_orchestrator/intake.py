"""What has arrived and is not decided yet, and what of it is next.

    messages of executions under way ─► in order of arrival ──────────────┐
    starts, delivered or found by a scan ─► a line for each workspace ────┴─► the next tick

A start that waits holds up nothing: it takes no credit of its partition's pull loop, so what was sent after it is
delivered all the same. While it waits the server delivers it again now and then, and that takes its place. When all
that waits is too large for memory, the longest line gives up its last: the server has it, and delivers it again later.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters.inbox import Arrival
from millrace_orchestrator.domain.fairness import Lines
from millrace_shared import subjects
from millrace_shared.bus.pull import Delivery
from millrace_shared.ids import partition_of

TICK_MESSAGES_MAX = 500
TICK_STARTS_MAX = 50
"""Starts in one tick. A newcomer waits for the tick in hand and is part of the next one, so ticks are kept short."""
WAITING_BYTES_MAX = 96 * 1024 * 1024
"""Starts that wait: about 50,000 small ones. Those beyond are handed out by the server once more, a minute later."""
NUDGED_MAX = 200_000
"""Starts without room that are asked for as soon as there is room again. Others come when the server thinks it is time,
which may be ten minutes later."""
PATIENT_FROM = 500
"""With more starts than this in its line, a start is wanted again only after `PATIENCE_S`: a hundred thousand of them
delivered anew after two seconds would hold up everybody."""
PATIENCE_S = 60.0


class _Start(msgspec.Struct):
    """What must be known of a start to put it into a line."""

    workspace: str = ""
    parent: msgspec.Raw = msgspec.Raw()


_start = msgspec.json.Decoder(_Start)


class Intake:
    """Takes in arrivals, and gives out the batch of each tick."""

    def __init__(self) -> None:
        self._messages: deque[Arrival] = deque()
        self._starts: Lines[Arrival] = Lines(WAITING_BYTES_MAX)
        self._given_back: deque[Delivery] = deque(maxlen=NUDGED_MAX)
        self._wake = asyncio.Event()

    def put(self, arrival: Arrival) -> None:
        """Take in a message of an execution, other than its start."""
        self._messages.append(arrival)
        self._wake.set()

    def put_start(self, arrival: Arrival, *, under_way: bool) -> None:
        """Take in a start. `under_way` says that its execution is known to have begun."""
        self._queue(arrival, under_way=under_way)
        self._wake.set()

    def wake(self) -> None:
        """Let who waits for arrivals look around."""
        self._wake.set()

    async def wait(self) -> None:
        """Return when there is something to decide on, or somebody has called `wake`."""
        await self._wake.wait()

    def batch(self) -> list[Arrival]:
        """Take what the next tick decides on. A message brings the start that it waits for along."""
        batch = [self._messages.popleft() for _ in range(min(len(self._messages), TICK_MESSAGES_MAX))]
        if self._starts:
            for arrival in tuple(batch):
                start = self._starts.pop(subjects.execution_id_of(arrival.subject))
                if start is not None:
                    batch.append(start)
            batch += self._starts.take(TICK_STARTS_MAX)
        self._nudge()
        if not self._messages and not self._starts:
            self._wake.clear()
        metrics.waiting_starts.set(len(self._starts))
        return batch

    def forget(self, partition: int) -> int:
        """Drop what was delivered of a partition; return how many messages other than starts that were."""
        kept = deque(one for one in self._messages if subjects.partition_in(one.subject) != partition)
        dropped = [one for one in self._messages if subjects.partition_in(one.subject) == partition]
        self._messages = kept
        for execution_id in [one for one in self._starts if partition_of(one) == partition]:
            self._starts.pop(execution_id)
        return sum(one.delivery is not None for one in dropped)

    def _nudge(self) -> None:
        """Ask for starts that had no room, about as many as leave in each tick, while half of the room is free."""
        if self._given_back and self._starts.size_bytes < WAITING_BYTES_MAX / 2:
            for _ in range(min(len(self._given_back), 2 * TICK_STARTS_MAX)):
                self._given_back.popleft().nak()

    def _queue(self, arrival: Arrival, *, under_way: bool) -> None:
        execution_id = subjects.execution_id_of(arrival.subject)
        try:
            start = _start.decode(arrival.payload)
        except (msgspec.DecodeError, UnicodeDecodeError):  # it is buried in its turn
            start = _Start()
        known = self._starts.get(execution_id)
        if known is not None:
            arrival = _replacing(known, arrival)
        # A child is part of an execution under way, which goes before what has not begun.
        begun = under_way or bool(bytes(start.parent))
        for left in self._starts.put(start.workspace, execution_id, arrival, len(arrival.payload), begun=begun):
            metrics.starts_given_back.inc()
            if left.delivery is not None:
                left.delivery.nak(PATIENCE_S)
                self._given_back.append(left.delivery.without_payload())
        if arrival.delivery is not None and self._starts.length(start.workspace) > PATIENT_FROM:
            arrival.delivery.nak(PATIENCE_S)


def _replacing(known: Arrival, arrival: Arrival) -> Arrival:
    """Return the one of two arrivals of a start that stays: the delivery, which can be acknowledged, or the newer."""
    kept = known if arrival.delivery is None and known.delivery is not None else arrival
    return Arrival(kept.subject, kept.payload, kept.delivery, again=known.again or arrival.again)
