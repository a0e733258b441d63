"""The journal: reading an execution's log, and appending to it under the fence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters.plans import Plans
from millrace_orchestrator.domain.errors import NotStarted
from millrace_orchestrator.domain.evolve import fold
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import ExecutionState
from millrace_orchestrator.errors import DefinitionMissing, ExecutionBroken
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_last_of_each, read_log
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import decode_transition
from millrace_shared.errors import MillraceError
from millrace_shared.messages import ExecutionStarted


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

    def __init__(self, connection: Connection, publisher: Publisher, plans: Plans) -> None:
        self._connection = connection
        self._publisher = publisher
        self._plans = plans

    async def load(self, execution_id: str) -> Execution | None:
        """Fold an execution's log; None when it has none.

        Raises:
            ExecutionBroken: its definition cannot be had (any more).
            MessageInvalid, NotStarted, ImpossibleTransition: its log cannot be read by this version.
            BusUnavailable: the server did not answer.
        """
        stored = await read_log(self._connection, execution_id)
        if not stored:
            return None
        metrics.logs_folded.inc()
        transitions = [decode_transition(message.payload) for message in stored]
        started = next(iter(transitions[0].events), None)
        if not isinstance(started, ExecutionStarted):
            raise NotStarted(f"the log of {execution_id} does not begin with execution.started")
        try:
            plan = await self._plans.get(started.request.definition, started.request.part)
        except DefinitionMissing as error:
            raise ExecutionBroken(f"it has started, and {error}") from error
        return Execution(plan, fold(plan, transitions), stored[-1].sequence, changed_at=transitions[-1].at)

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

    async def append(self, appends: Sequence[Append]) -> list[int | MillraceError]:
        """Append transitions of different executions, each under its own fence, with as few fsyncs as possible.

        Returns:
            For each the sequence at which it is stored, or why it is not (`WrongLastSequence`: the fence was lost;
            `BusUnavailable`: it is not known whether it is).
        """
        return await self._publisher.publish_all(
            [Outgoing(subjects.log(one.execution_id), one.payload, one.sequence) for one in appends]
        )
