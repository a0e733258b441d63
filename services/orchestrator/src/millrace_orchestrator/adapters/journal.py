"""The journal: reading an execution's log, and appending to it under the fence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters.plans import Plans
from millrace_orchestrator.adapters.snapshots import SNAPSHOT_EVERY, Snapshots
from millrace_orchestrator.domain.errors import ImpossibleTransition, NotStarted
from millrace_orchestrator.domain.evolve import fold
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import ExecutionState
from millrace_orchestrator.errors import DefinitionMissing, ExecutionBroken
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import Stored, read_last, read_last_of_each, transitions_of
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import decode_transition
from millrace_shared.errors import MillraceError
from millrace_shared.messages import ExecutionStarted, StartRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Execution:
    """An execution in memory: its plan, its state, and where its log ends.

    `sequence` is the stream sequence of the log's last message, 0 when there is none: the fence of the next append.
    `memo` is the core's own (see `decide`). `state` is None before the start. `changed_at` is when the last transition
    was decided, in Unix seconds.
    """

    plan: Plan
    state: ExecutionState | None = None
    sequence: int = 0
    memo: dict[str, list[Any]] = field(default_factory=dict)
    changed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Append:
    """One transition, encoded, to be appended after `sequence`."""

    execution_id: str
    sequence: int
    payload: bytes


class Journal:
    """The logs of all executions."""

    def __init__(self, connection: Connection, publisher: Publisher, plans: Plans, snapshots: Snapshots) -> None:
        self._connection = connection
        self._publisher = publisher
        self._plans = plans
        self._snapshots = snapshots

    async def load(self, execution_id: str) -> Execution | None:
        """Fold an execution's log; None when it has none.

        Raises:
            ExecutionBroken: its definition cannot be had (any more).
            MessageInvalid, NotStarted, ImpossibleTransition: its log cannot be read by this version.
            BusUnavailable: the server did not answer.
        """
        stored: list[Stored] = []
        async for message in transitions_of(self._connection, execution_id):
            stored.append(message)
            if len(stored) == SNAPSHOT_EVERY:  # it is long, so somebody may have taken a snapshot
                execution = await self._load_rest(_request(execution_id, stored[0]))
                if execution is not None:
                    return execution
        if not stored:
            return None
        metrics.logs_folded.inc()
        plan = await self._plan(_request(execution_id, stored[0]))
        transitions = [decode_transition(message.payload) for message in stored]
        return Execution(plan, fold(plan, transitions), stored[-1].sequence, changed_at=transitions[-1].at)

    async def _load_rest(self, request: StartRequest) -> Execution | None:
        """Fold what follows the last snapshot; None when there is none that is beyond doubt."""
        found = await self._snapshots.rest(request)
        if found is None:
            return None
        snapshot, transitions, stored = found
        plan = await self._plan(request)
        try:
            state = fold(plan, transitions, snapshot.state)
        except ImpossibleTransition as error:
            log.warning(
                "execution %s is folded from its beginning, not from its snapshot: %s", request.execution_id, error
            )
            return None
        metrics.logs_folded.inc()
        changed_at = transitions[-1].at if transitions else snapshot.at
        return Execution(plan, state, stored[-1].sequence, changed_at=changed_at)

    async def _plan(self, request: StartRequest) -> Plan:
        try:
            return await self._plans.get(request.definition, request.part)
        except DefinitionMissing as error:
            raise ExecutionBroken(f"it has started, and {error}") from error

    async def begun(self, execution_ids: Sequence[str]) -> set[str]:
        """Return which of these executions have a log.

        Raises:
            BusUnavailable: the server did not answer.
        """
        if not execution_ids:
            return set()
        logs = [subjects.log(execution_id) for execution_id in execution_ids]
        found = await read_last_of_each(self._connection, "EVENTS", logs)
        return {subjects.execution_id_of(stored.subject) for stored in found}

    async def is_accepted(self, execution_id: str) -> bool:
        """Return whether an execution's start is in the inbox: it is begun in its turn.

        Raises:
            BusUnavailable: the server did not answer.
        """
        return await read_last(self._connection, "INBOX", subjects.start(execution_id)) is not None

    async def append(self, appends: Sequence[Append]) -> list[int | MillraceError]:
        """Append transitions of different executions, each under its own fence, with as few fsyncs as possible.

        Returns:
            For each the sequence at which it is stored, or why it is not (`WrongLastSequence`: the fence was lost;
            `BusUnavailable`: it is not known whether it is).
        """
        return await self._publisher.publish_all(
            [Outgoing(subjects.log(one.execution_id), one.payload, one.sequence) for one in appends]
        )


def _request(execution_id: str, first: Stored) -> StartRequest:
    started = next(iter(decode_transition(first.payload).events), None)
    if not isinstance(started, ExecutionStarted):
        raise NotStarted(f"the log of {execution_id} does not begin with execution.started")
    return started.request
