"""One execution's part of a tick: what arrived for it, and what came of that."""

from __future__ import annotations

from dataclasses import dataclass, field

from millrace_orchestrator.adapters.inbox import Arrival
from millrace_orchestrator.adapters.journal import Execution
from millrace_orchestrator.domain.commands import Command
from millrace_shared.errors import MillraceError
from millrace_shared.messages import Event, InboxMessage, StartRequest


@dataclass(slots=True)
class Turn:
    """Filled from left to right as the tick goes on.

    Attributes:
        execution_id: whose turn it is.
        arrivals: what arrived for it, decoded, in order; a start comes first.
        start: the start message, if one has arrived.
        is_again: whether something of it may have been handled before, by a process that did not get to the end of it.
        execution: the execution before the turn; None while it is not known, or when there is none.
        from_memory: whether `execution` was in memory, and so may be out of date.
        is_fresh: whether the execution is known to have no log, although its start may have come before.
        after: the execution after the turn; None when there is none.
        events: what was decided; empty when nothing follows.
        payload: the transition, encoded.
        commands: what must be done in the world once the transition is committed.
        failed: why the turn must be taken again.
    """

    execution_id: str
    arrivals: list[tuple[Arrival, InboxMessage]] = field(default_factory=list)
    start: StartRequest | None = None
    is_again: bool = False
    execution: Execution | None = None
    from_memory: bool = False
    is_fresh: bool = False
    after: Execution | None = None
    events: tuple[Event, ...] = ()
    payload: bytes = b""
    commands: list[Command] = field(default_factory=list)
    failed: MillraceError | None = None

    def add(self, arrival: Arrival, message: InboxMessage) -> None:
        """Add what arrived. Whatever came before a start can only be decided after it."""
        if arrival.again:
            self.is_again = True
        if isinstance(message, StartRequest):
            self.start = message
            self.arrivals.insert(0, (arrival, message))
        else:
            self.arrivals.append((arrival, message))

    @property
    def why_again(self) -> str:
        """Why it may have been handled before: a `takeover` found it, its lease (`look`) or a message came again."""
        again = [(arrival, message) for arrival, message in self.arrivals if arrival.again]
        if not all(isinstance(message, StartRequest) for _, message in again):
            return "retry"
        return "look" if all(arrival.delivery is not None for arrival, _ in again) else "takeover"
