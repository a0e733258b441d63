"""Steering executions: a wish is judged by the log, made durable in the inbox, and watched until the log answers it."""

from __future__ import annotations

from typing import Any

from millrace_api.adapters.acceptance import Acceptance
from millrace_api.adapters.deadlines import Deadlines
from millrace_api.adapters.definitions import Definitions
from millrace_api.adapters.executions import Executions, not_found
from millrace_api.adapters.log_follower import LogFollower
from millrace_api.adapters.places import Places
from millrace_api.domain.history import History
from millrace_api.domain.steering import Wish
from millrace_api.errors import Refused
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.group_commit import GroupCommit
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import encode
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.errors import BusUnavailable, UpgradeNeeded
from millrace_shared.ids import is_execution_id
from millrace_shared.messages import StartRequest

WAIT_S = 5.0
"""How long a request waits for its effect. After that the answer is that it is on its way."""
STEERING_MAX = 500
"""Requests of one process that wait for their effect at once."""


class Steering:
    """Grants wishes."""

    def __init__(
        self,
        connection: Connection,
        acceptance: Acceptance,
        executions: Executions,
        definitions: Definitions,
        inbox: GroupCommit,
    ) -> None:
        self._connection = connection
        self._acceptance = acceptance
        self._executions = executions
        self._definitions = definitions
        self._inbox = inbox
        self._places = Places(STEERING_MAX, "too_many_waiting", "requests wait for their effect")
        self._deadlines = Deadlines()

    def stop(self) -> None:
        """End every wait now: what was asked is durable."""
        self._deadlines.stop()

    async def grant(self, workspace: str, execution_id: str, wish: Wish) -> tuple[dict[str, Any], bool]:
        """Hand a wish on, and wait up to `WAIT_S` until it took effect.

        Returns:
            What to answer, and whether it took effect; if not, it is durable, and will.

        Raises:
            Refused: `execution_not_found`, or what the wish says when it cannot be granted.
            Unavailable: too many requests wait already.
            BusUnavailable: the bus does not answer.
            UpgradeNeeded: a later version wrote the log or the definition.
        """
        if not is_execution_id(execution_id):
            raise not_found(execution_id)
        with self._places.take():
            async with LogFollower(self._connection, execution_id) as follower:
                history = await _read(follower)
                definition = await self._definition(await self._request(workspace, execution_id, history))
                done = wish.outcome(history)
                if done is not None:  # it was asked before, under the same id
                    return done, True
                wish.check(history, definition)
                await self._inbox.publish(Outgoing(subjects.inbox(execution_id), encode(wish.message(history))))
                try:
                    async with self._deadlines.within(WAIT_S):
                        return await _answered(wish, history, definition, follower), True
                except (TimeoutError, BusUnavailable, UpgradeNeeded):  # it is durable all the same
                    return wish.sent, False

    async def _request(self, workspace: str, execution_id: str, history: History) -> StartRequest:
        """Return what an execution began with: of its log, or, while it has none, as it was accepted."""
        request = history.request
        if request is None:
            ended = await self._executions.ended(workspace, execution_id)
            if ended is not None:  # its log has expired; the request of a name is kept for ever
                raise Refused("execution_already_finished", f"the execution has ended already: {ended}")
            request = await self._acceptance.find(workspace, execution_id)
        if request is None:
            raise not_found(execution_id)
        if request.workspace != workspace:
            raise not_found(execution_id)
        return request

    async def _definition(self, request: StartRequest) -> WorkflowDefinition:
        definition = await self._definitions.get(request.definition, request.part)
        if definition is None:
            raise BusUnavailable(f"the definition {request.definition} of {request.execution_id} cannot be read")
        return definition


async def _read(follower: LogFollower) -> History:
    """Return the history as far as the log goes now."""
    history = History()
    while (transition := await follower.poll()) is not None:
        history.apply(transition)
    return history


async def _answered(
    wish: Wish, history: History, definition: WorkflowDefinition, follower: LogFollower
) -> dict[str, Any]:
    while True:
        history.apply(await follower.next())
        done = wish.outcome(history)
        if done is not None:
            return done
        wish.check(history, definition)
