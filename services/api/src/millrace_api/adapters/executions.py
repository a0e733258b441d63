"""One execution, as it is now: from the projection when that is up to date, and from the log when it is not.

A read sees every write: whatever was accepted is found, however far the projection lags, and an execution that
somebody saw finished never goes back to running. The projection answers alone only for executions that have ended;
for the others the version of the last transition in the log is compared with the projected one.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from millrace_api.adapters.acceptance import Acceptance
from millrace_api.adapters.definitions import Definitions
from millrace_api.adapters.projection_reader import ProjectionReader
from millrace_api.domain.rendering import FINAL, Row
from millrace_api.errors import Refused
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_last, read_last_of_log, read_log
from millrace_shared.codec import decode_transition
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.parts import PartUnknown
from millrace_shared.errors import BusUnavailable
from millrace_shared.execution.columns import request_columns
from millrace_shared.execution.tables import EXECUTIONS
from millrace_shared.execution.view import ExecutionView
from millrace_shared.ids import is_execution_id
from millrace_shared.messages import StartRequest
from millrace_shared.postgres import is_unavailable

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 2.0
"""A database that does not answer for this long is not waited for: the log has the answer too."""


@dataclass(frozen=True, slots=True)
class Execution:
    """An execution's rows. `view` is set when they were folded from the log."""

    row: Row
    steps: list[Row]
    definition: WorkflowDefinition | None
    view: ExecutionView | None = None


class Executions:
    """Finds executions."""

    def __init__(
        self,
        connection: Connection,
        projection: ProjectionReader,
        definitions: Definitions,
        acceptance: Acceptance,
    ) -> None:
        self._connection = connection
        self._projection = projection
        self._definitions = definitions
        self._acceptance = acceptance

    async def get(self, workspace: str, execution_id: str) -> Execution:
        """Return an execution.

        Raises:
            Refused: `execution_not_found`.
            BusUnavailable: neither the projection nor the bus could answer.
        """
        if not is_execution_id(execution_id):  # also keeps anything else out of subjects
            raise not_found(execution_id)
        projected = await self._projected(workspace, execution_id)
        if projected is not None and projected[0]["status"] in FINAL:
            return await self._complete(*projected)
        try:
            if projected is not None and await self._is_current(execution_id, projected[0]["last_version"]):
                return await self._complete(*projected)
            return await self._from_bus(workspace, execution_id, projected)
        except BusUnavailable:
            if projected is None:
                raise
            return await self._complete(*projected)

    async def of_view(self, view: ExecutionView) -> Execution:
        """Return the execution that a folded log shows."""
        assert view.execution is not None
        return await self._complete(view.execution, list(view.steps), view)

    async def ended(self, workspace: str, execution_id: str) -> str | None:
        """Return the final status of an execution, or None while it has not ended.

        Raises:
            Refused: `execution_not_found`.
        """
        status: str = (await self.get(workspace, execution_id)).row["status"]
        return status if status in FINAL else None

    async def request_of(self, workspace: str, execution_id: str) -> StartRequest:
        """Return the request that an execution began with.

        Raises:
            Refused: `execution_not_found`.
            BusUnavailable: the bus does not answer.
        """
        request = None
        if is_execution_id(execution_id):
            request = await self._acceptance.find(workspace, execution_id)
        if request is None:
            raise not_found(execution_id)
        return request

    async def check_log(self, workspace: str, execution_id: str) -> None:
        """Refuse what needs the log of an execution whose log was removed. One that has none yet passes.

        Raises:
            Refused: `execution_not_found`, `log_expired`.
            BusUnavailable: the bus does not answer.
        """
        if is_execution_id(execution_id) and await self._has_log(execution_id):
            await self.request_of(workspace, execution_id)
            return
        status = await self.ended(workspace, execution_id)
        if status is not None and not await self._has_log(execution_id):  # it may have run in this moment
            raise Refused(
                "log_expired",
                f"the execution ended long ago ({status}), and its log was removed after MILLRACE_LOG_RETENTION_DAYS",
            )

    async def _has_log(self, execution_id: str) -> bool:
        return await read_last(self._connection, "EVENTS", subjects.log(execution_id)) is not None

    async def _projected(self, workspace: str, execution_id: str) -> tuple[Row, list[Row]] | None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return await self._projection.execution(workspace, execution_id)
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("the database does not answer (%s): reading the log instead", type(error).__name__)
            return None

    async def _is_current(self, execution_id: str, version: int) -> bool:
        last = await read_last_of_log(self._connection, execution_id)
        return last is None or decode_transition(last.payload).version <= version

    async def _from_bus(self, workspace: str, execution_id: str, projected: tuple[Row, list[Row]] | None) -> Execution:
        view = ExecutionView.of_log(stored.payload for stored in await read_log(self._connection, execution_id))
        if view.execution is None:
            return await self._complete(pending_row(await self.request_of(workspace, execution_id)), [])
        if view.execution["workspace"] != workspace:
            raise not_found(execution_id)
        if projected is not None:
            view.execution["execution_number"] = projected[0]["execution_number"]
        return await self.of_view(view)

    async def _complete(self, row: Row, steps: list[Row], view: ExecutionView | None = None) -> Execution:
        try:
            definition = await self._definitions.get(row["definition"], row["part"])
        except (BusUnavailable, PartUnknown):
            definition = None  # the steps that were reached can be shown without it
        return Execution(row, steps, definition, view)


def pending_row(request: StartRequest) -> dict[str, Any]:
    """Return the row of an execution that was accepted and has no log yet."""
    row = EXECUTIONS.new_row((request.execution_id,))
    row.update(request_columns(request), status="pending")
    row["updated_at"] = row["created_at"]
    return row


def not_found(execution_id: str) -> Refused:
    """Return the refusal of an unknown execution."""
    return Refused("execution_not_found", f'there is no execution "{execution_id[:64]}" in this workspace')
