"""Timers. Every one of them can be told from its execution's log, so none is lost with the process that held it.

A short pause, and the deadline of an execution, is kept in memory by whoever handles the execution, and armed again by
whoever takes it over: most never fire, and a message each would cost more than the step. A long pause is a schedule of
the NATS server's, so that an execution that waits for a week needs nobody to remember it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime

from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import encode
from millrace_shared.ids import attempt_key, partition_of
from millrace_shared.messages import TimerFired

FIRED_TTL_S = 3600
COMPACT_FROM = 1024

_Key = tuple[str, str, str, int | None, int]


class ShortTimers:
    """Timers in memory: the earliest is waited for, the others stand in a heap."""

    def __init__(self, fire: Callable[[TimerFired], None]) -> None:
        self._fire = fire
        self._heap: list[tuple[float, int, _Key]] = []
        self._armed: dict[_Key, tuple[float, TimerFired]] = {}
        self._of_execution: dict[str, _Key | set[_Key]] = {}  # nearly all have one, and a set costs 200 bytes
        self._order = itertools.count()
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, due: float, fired: TimerFired) -> None:
        """Have `fired` called at `due` (Unix seconds). Arming the same one again moves it."""
        key = (fired.execution_id, fired.kind, fired.step, fired.item, fired.attempt)
        self._armed[key] = (due, fired)
        known = self._of_execution.get(fired.execution_id)
        if isinstance(known, set):
            known.add(key)
        else:
            self._of_execution[fired.execution_id] = key if known in {None, key} else {known, key}
        heapq.heappush(self._heap, (due, next(self._order), key))
        if self._heap[0][2] == key:
            self._set()

    def forget(self, execution_id: str) -> None:
        """Drop all timers of an execution that has ended."""
        known = self._of_execution.pop(execution_id, set())
        for key in known if isinstance(known, set) else (known,):
            self._armed.pop(key, None)
        if len(self._heap) > COMPACT_FROM and len(self._heap) > 2 * len(self._armed):
            self._heap = [
                entry for entry in self._heap if entry[2] in self._armed and self._armed[entry[2]][0] == entry[0]
            ]
            heapq.heapify(self._heap)

    def lose(self, partition: int) -> None:
        """Drop all timers of a partition: whoever holds it now arms them again."""
        for execution_id in [one for one in self._of_execution if partition_of(one) == partition]:
            self.forget(execution_id)

    def stop(self) -> None:
        """Fire nothing more."""
        if self._handle is not None:
            self._handle.cancel()

    def _set(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._heap:
            delay_s = max(0.0, self._heap[0][0] - time.time())
            self._handle = asyncio.get_running_loop().call_later(delay_s, self._expire)

    def _expire(self) -> None:
        now = time.time()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            armed = self._armed.get(key)
            if armed is None or armed[0] != due:
                continue
            del self._armed[key]
            known = self._of_execution.get(key[0])
            if isinstance(known, set):
                known.discard(key)
            if not known or known == key:
                self._of_execution.pop(key[0], None)
            self._fire(armed[1])
        self._set()


def long_timer_id(fired: TimerFired) -> str:
    """Return the id under which a long timer is scheduled: setting it again replaces it."""
    return f"{fired.kind}-{attempt_key(fired.step, fired.item, fired.attempt)}"


def long_timer_ids(key: str) -> tuple[str, ...]:
    """Return the ids under which a long timer of the attempt `key` may be scheduled."""
    return f"retry-{key}", f"wait-{key}"


def scheduled(due: float, fired: TimerFired) -> Outgoing:
    """Return the message that has the NATS server publish `fired` into the inbox at `due` (Unix seconds)."""
    at = datetime.fromtimestamp(due, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    timer_id = long_timer_id(fired)
    schedule = {
        "Nats-Schedule": f"@at {at}",
        "Nats-Schedule-Target": subjects.timer_fire(fired.execution_id, timer_id),
        "Nats-Schedule-TTL": f"{FIRED_TTL_S}s",
    }
    return Outgoing(subjects.timer_set(fired.execution_id, timer_id), encode(fired), extra=schedule)


def schedule_long(connection: Connection, due: float, fired: TimerFired) -> None:
    """Have the NATS server publish `fired` at `due`, without waiting for it to say so."""
    message = scheduled(due, fired)
    connection.send(message.subject, message.payload, headers=message.headers())
