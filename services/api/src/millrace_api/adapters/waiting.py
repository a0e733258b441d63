"""Waiting for an execution to end, without asking again and again: the log's live copy is folded as it comes."""

from __future__ import annotations

from dataclasses import dataclass

from millrace_api.adapters.acceptance import Acceptance, Accepted, Candidate
from millrace_api.adapters.deadlines import Deadlines
from millrace_api.adapters.executions import Execution, Executions
from millrace_api.adapters.log_follower import LogFollower, is_final
from millrace_api.adapters.places import Places
from millrace_shared.bus.connection import Connection
from millrace_shared.errors import BusUnavailable, UpgradeNeeded
from millrace_shared.execution.view import ExecutionView

FINISHED = b'"execution.finished"'
"""What the last message of every log holds. Where else it occurs it wakes a wait for nothing, and no more."""
WAITING_MAX = 2_000
"""Requests of one process that may wait at once."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of waiting: the accepted request, and the ended execution unless time ran out first."""

    accepted: Accepted
    execution: Execution | None


class Waiting:
    """Stores candidates and waits for their executions."""

    def __init__(self, connection: Connection, acceptance: Acceptance, executions: Executions) -> None:
        self._connection = connection
        self._acceptance = acceptance
        self._executions = executions
        self._places = Places(WAITING_MAX, "too_many_waiting", "requests wait")
        self._deadlines = Deadlines()

    @property
    def count(self) -> int:
        """Requests that wait now."""
        return self._places.taken

    def stop(self) -> None:
        """End every wait now, as if its time had run out."""
        self._deadlines.stop()

    async def store_and_wait(self, candidate: Candidate, wait_s: float) -> Outcome:
        """Store a candidate and wait up to `wait_s` for the end of its execution.

        Raises:
            Refused: `execution_name_conflict`.
            Unavailable: too many requests wait already.
            BusUnavailable: NATS did not answer.
        """
        execution_id = candidate.request.execution_id
        # Subscribed before it is stored, so a new execution's log is seen from its first transition on. The follower
        # is woken once, by the end: what came before is folded then, in one go.
        follower = LogFollower(self._connection, execution_id, stored=False, quiet_until=FINISHED)
        with self._places.take():
            async with follower:
                accepted = await self._acceptance.store(candidate)
                if not accepted.first:
                    follower.catch_up()
                view = await self._ended(follower, wait_s)
        return Outcome(accepted, None if view is None else await self._executions.of_view(view))

    async def _ended(self, follower: LogFollower, wait_s: float) -> ExecutionView | None:
        try:
            async with self._deadlines.within(wait_s):
                return await _fold(follower)
        except (TimeoutError, BusUnavailable, UpgradeNeeded):  # it is accepted all the same: a 202, and no error
            return None


async def _fold(follower: LogFollower) -> ExecutionView:
    view = ExecutionView()
    while True:
        transition = await follower.next()
        view.apply(transition)
        if is_final(transition):
            return view
