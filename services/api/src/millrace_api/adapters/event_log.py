"""The events of an execution, page by page, straight from its log."""

from __future__ import annotations

from typing import Any

from millrace_api.domain.events import shown_events
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import transitions_of
from millrace_shared.codec import decode_transition


class EventLog:
    """Reads logs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def page(self, execution_id: str, after: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        """Return the events of at least `limit` transitions' worth after stream sequence `after`.

        A transition is never cut in two, so a page may hold a few events more than `limit`.

        Returns:
            The events, and the stream sequence to go on after; None at the end of the log as it is now.
        """
        events: list[dict[str, Any]] = []
        last = after
        async for stored in transitions_of(self._connection, execution_id, after + 1):
            if len(events) >= limit:
                return events, last
            events += shown_events(decode_transition(stored.payload))
            last = stored.sequence
        return events, None
