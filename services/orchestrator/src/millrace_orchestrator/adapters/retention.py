"""Retention: the logs of executions that ended long ago are removed. What they came to stays in Postgres.

Which ended when is told by the log itself (`log_walk.py`). What has an end at the distance of the retention is removed
as a whole, by its exact subject, so that the log of a running execution is never touched. A child's log stays until the
execution at the top has ended, and is removed with that of its parent at the latest.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters.log_walk import LogWalk
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import Stored, read_last, read_log
from millrace_shared.codec import decode_transition
from millrace_shared.errors import MessageInvalid
from millrace_shared.messages import ExecutionFinished, ExecutionStarted, StepScheduled, Transition

DAY_S = 86_400.0


class Retention:
    """Removes logs every few minutes.

    Args:
        connection: the bus.
        days: how long a log is kept after its end; 0: for ever.
        clock: Unix seconds.
    """

    def __init__(self, connection: Connection, days: float, clock: Callable[[], float] = time.time) -> None:
        self._connection = connection
        self._walk = LogWalk(connection, "retention", days * DAY_S, self._expire, clock)
        self.start, self.stop = self._walk.start, self._walk.stop

    async def expire(self, partition: int) -> int:
        """Remove the logs of a partition that are old enough; return how many those were.

        Raises:
            BusRefused: the stream was made by a version that let nobody remove anything.
            BusUnavailable: the server did not answer.
        """
        return await self._walk.walk(partition)

    async def _expire(self, found: Stored) -> int:
        """Remove the log that a message is of, if it has an end, and those of the execution's children."""
        execution_id = subjects.execution_id_of(found.subject)
        transitions = await self._ended(execution_id)
        if not transitions:
            return 0
        started = transitions[0].events[0]
        if isinstance(started, ExecutionStarted) and started.request.parent is not None:
            root = started.request.parent.root
            if await read_last(self._connection, "EVENTS", subjects.log(root)) and not await self._ended(root):
                return 0
        removed, family = 0, [execution_id]
        while family:  # one log at a time: a list may have ten thousand children
            execution_id = family.pop()
            transitions = await self._ended(execution_id)
            if transitions:
                await self._connection.jetstream_api("STREAM.PURGE.EVENTS", {"filter": subjects.log(execution_id)})
                metrics.logs_expired.inc()
                removed += 1
            scheduled = (event for one in transitions for event in one.events if isinstance(event, StepScheduled))
            family += dict.fromkeys(event.child for event in scheduled if event.child)
        return removed

    async def _ended(self, execution_id: str) -> list[Transition]:
        """Return the log of an execution if it has an end, else nothing."""
        stored = await read_log(self._connection, execution_id)
        try:
            transitions = [decode_transition(one.payload) for one in stored]
        except MessageInvalid:
            return []
        has_end = bool(transitions) and isinstance(transitions[-1].events[-1], ExecutionFinished)
        return transitions if has_end else []
