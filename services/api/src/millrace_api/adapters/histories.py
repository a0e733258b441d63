"""The histories of executions: folded from the log, or, once that has expired, from the projection's copy of it."""

from __future__ import annotations

from millrace_api.adapters.acceptance import Acceptance
from millrace_api.adapters.executions import not_found
from millrace_api.adapters.projection_reader import ProjectionReader
from millrace_api.domain.history import History
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import transitions_of
from millrace_shared.codec import decode_transition
from millrace_shared.ids import is_execution_id
from millrace_shared.messages import StartRequest


class Histories:
    """Reads histories."""

    def __init__(self, connection: Connection, projection: ProjectionReader, acceptance: Acceptance) -> None:
        self._connection = connection
        self._projection = projection
        self._acceptance = acceptance

    async def get(self, workspace: str, execution_id: str) -> tuple[StartRequest, History]:
        """Return what an execution began with, and its history as far as the log goes now.

        Raises:
            Refused: `execution_not_found`.
            BusUnavailable: the bus does not answer.
        """
        if not is_execution_id(execution_id):
            raise not_found(execution_id)
        history = await self.read(execution_id)
        request = history.request or await self._acceptance.find(workspace, execution_id)
        if request is None or request.workspace != workspace:
            raise not_found(execution_id)
        return request, history

    async def read(self, execution_id: str) -> History:
        """Return the history of an execution that is known to be the workspace's; an empty one when there is none.

        Raises:
            BusUnavailable: the bus does not answer.
        """
        history = History()
        # Page by page: a long log takes a while to decode, and others are served in between.
        async for stored in transitions_of(self._connection, execution_id):
            history.apply(decode_transition(stored.payload))
        if history.version:
            return history
        return History.of(await self._projection.transitions(execution_id))
