"""The gatekeeper: has executions enter and leave gates, and has them told what the gates say (ADR 0010).

No process owns a gate. Whoever has a reason to looks at it: reads its document and the next tickets, has the core
decide, and replaces the document if nobody else has meanwhile; otherwise it looks again. So these always hold:

- A change and what it has to tell are one message. Who replaces a document that somebody else has written says first
  what that one had to say.
- A ticket is published before the document is read, and a document that has gained room is written before the tickets
  are read once more. So of two that meet, one sees the other: nobody waits before an open gate.
- Those inside who have ended without a word (a process died, and its lease is redelivered later) are let go before
  anybody is turned away because of them. A gate that somebody waits at is looked at every `RECHECK_S`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters.notices import REMEMBERED_MAX, Notices, Said
from millrace_orchestrator.adapters.tickets import Kept, Place, Stamp, Tickets
from millrace_orchestrator.domain.gates import Enter, Gate, Leave, Outcome, advance, appetite, leave
from millrace_orchestrator.errors import GateContended
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_last_of_logs
from millrace_shared.bus.publisher import Publisher
from millrace_shared.codec import decode_transition
from millrace_shared.errors import MillraceError
from millrace_shared.gates import GateDocument, Notice
from millrace_shared.messages import ExecutionFinished

log = logging.getLogger(__name__)

RECHECK_S = 10.0
"""How often a gate is looked at that somebody waits at, whatever happens."""
AUDIT_EVERY_S = 5.0
"""Where one too many only waits, those inside are not asked more often than this whether they still run."""
LOSSES_MAX = 100
"""A document that was replaced by others so often in a row is left to them for a moment."""
RETRY_S = 0.5


@dataclass(slots=True)
class _Visit:
    """A gate to look at, and why: `leaving` have ended. `losses` counts the changes that came too late."""

    gate: Gate
    leaving: set[str] = field(default_factory=set)
    losses: int = 0


@dataclass(slots=True)
class _Look:
    """One look at a gate: what was there, what follows, and whether there may be more to decide."""

    visit: _Visit
    kept: Kept
    outcome: Outcome
    has_more: bool

    @property
    def changes(self) -> bool:
        """Whether the gate's document must be replaced."""
        return self.outcome.state != self.kept.document.state


class Gatekeeper:
    """Performs `Enter` and `Leave`. Both may be repeated without harm."""

    def __init__(self, connection: Connection, publisher: Publisher, clock: Callable[[], float] = time.time) -> None:
        self._connection = connection
        self._clock = clock
        self._tickets = Tickets(connection, publisher)
        self._notices = Notices(publisher, self._tickets)
        self._turn = asyncio.Lock()
        self._audited: OrderedDict[str, float] = OrderedDict()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._due: dict[str, Gate] = {}
        self._attending: asyncio.Task[None] | None = None

    async def enter(self, commands: Iterable[Enter]) -> None:
        """Have executions wait at gates, and decide on all that can be decided on now.

        Raises:
            BusUnavailable, BusRefused, GateContended: not all of it is done; perform the commands again.
        """
        gates = {(one.gate.id, one.execution_id): one.gate for one in commands}
        if not gates:
            return
        async with self._turn:
            again = await self._tickets.draw(list(gates), self._clock())
            if again:
                await self._answer_again(again, gates)
            await self._settle(_Visit(gate) for gate in gates.values())

    async def leave(self, commands: Iterable[Leave]) -> None:
        """Let go of executions that have ended, inside or waiting, and let others take their places.

        Raises:
            BusUnavailable, BusRefused, GateContended: not all of it is done; perform the commands again.
        """
        gates = {(one.gate.id, one.execution_id): one.gate for one in commands}
        if not gates:
            return
        async with self._turn:
            drawn = await self._tickets.read(gates)
            stamps = [Stamp(place, one.sequence, "left") for place, one in drawn.items() if not one.ticket.verdict]
            await self._tickets.stamp(stamps, self._clock())
            await self._settle(_Visit(gate, {execution_id}) for (_, execution_id), gate in gates.items())

    async def stop(self) -> None:
        """Look at nothing any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._attending is not None:
            self._attending.cancel()
            await asyncio.gather(self._attending, return_exceptions=True)

    async def _settle(self, visits: Iterable[_Visit]) -> None:
        """Look at gates until nothing changes any more."""
        pending: dict[str, _Visit] = {}
        for visit in visits:
            known = pending.setdefault(visit.gate.id, visit)
            known.leaving |= visit.leaving
            if visit.gate.version > known.gate.version:
                known.gate = visit.gate
        while pending:
            pending = await self._round(pending)
            losses = max((visit.losses for visit in pending.values()), default=0)
            if losses > LOSSES_MAX:
                raise GateContended(f"{losses} changes of a gate in a row came too late; they are tried again")
            if losses:
                await asyncio.sleep(random.uniform(0, 0.001 * losses))  # noqa: S311  so that two do not keep meeting

    async def _round(self, visits: dict[str, _Visit]) -> dict[str, _Visit]:
        """Look at each gate once; return those to be looked at again."""
        kept = await self._tickets.documents(visits)
        await self._notices.tell_untold([(visits[gate_id].gate, one) for gate_id, one in kept.items()], self._clock())
        concerned = [visit for gate_id, visit in visits.items() if _concerns(visit, kept[gate_id])]
        looks = await asyncio.gather(*(self._look(visit, kept[visit.gate.id]) for visit in concerned))
        now = self._clock()
        changes = [
            (look, GateDocument(now, look.outcome.state, look.outcome.notices)) for look in looks if look.changes
        ]
        sequences = await self._tickets.write(
            [(look.visit.gate, look.kept.sequence, document) for look, document in changes]
        )
        written, late = [], set()
        for (look, document), sequence in zip(changes, sequences, strict=True):
            if sequence:
                written.append((look.visit.gate, Kept(document, sequence)))
            else:
                late.add(look.visit.gate.id)
        left = await self._notices.tell(written, now)
        return self._to_look_at_again(looks, late, left)

    def _to_look_at_again(self, looks: Sequence[_Look], late: set[str], left: Sequence[Place]) -> dict[str, _Visit]:
        """Return the visits that follow: changes that came too late, more to decide, admitted after they had left."""
        pending: dict[str, _Visit] = {}
        for look in looks:
            visit = look.visit
            gone = {execution_id for gate_id, execution_id in left if gate_id == visit.gate.id}
            if visit.gate.id in late:
                metrics.gates_contended.inc()
                pending[visit.gate.id] = _Visit(visit.gate, visit.leaving, visit.losses + 1)
            elif look.has_more or gone:
                pending[visit.gate.id] = _Visit(visit.gate, gone)
            else:
                self._arm(visit.gate, look.outcome)
        return pending

    async def _look(self, visit: _Visit, kept: Kept) -> _Look:
        gate, before = visit.gate, kept.document.state
        state = leave(before, visit.leaving)
        wanted = appetite(gate, state)
        tickets = await self._tickets.waiting(gate.id, state.cursor, wanted)
        outcome = advance(gate, state, tickets, self._clock())
        if outcome.is_full and self._may_audit(gate.id, outcome):
            ended = await self._ended(state.inside)
            if ended:
                log.info("gate %s: %d executions had ended without a word", gate.id, len(ended))
                state = leave(state, ended)
                wanted = appetite(gate, state)
                tickets = await self._tickets.waiting(gate.id, state.cursor, wanted)
                outcome = advance(gate, state, tickets, self._clock())
        after = outcome.state
        # Whoever came while there was less room, or under other terms, may have found the gate closed.
        is_wider = not outcome.is_full and (len(after.inside) < len(before.inside) or after.terms != before.terms)
        all_were_decided = len(tickets) >= wanted and after.cursor == tickets[-1].sequence
        return _Look(visit, kept, outcome, has_more=is_wider or all_were_decided)

    def _may_audit(self, gate_id: str, outcome: Outcome) -> bool:
        now = time.monotonic()
        turns_away = bool(outcome.refused or outcome.cancelled)
        if not turns_away and now - self._audited.get(gate_id, -AUDIT_EVERY_S) < AUDIT_EVERY_S:
            return False
        self._audited[gate_id] = now
        self._audited.move_to_end(gate_id)
        if len(self._audited) > REMEMBERED_MAX:
            self._audited.popitem(last=False)
        return True

    async def _ended(self, execution_ids: Sequence[str]) -> set[str]:
        """Return those whose log has an end."""
        ended = set()
        for last in await read_last_of_logs(self._connection, execution_ids):
            try:
                is_over = isinstance(decode_transition(last.payload).events[-1], ExecutionFinished)
            except MillraceError:  # of a later version, perhaps: who can read it lets it go
                continue
            if is_over:
                ended.add(subjects.execution_id_of(last.subject))
        return ended

    async def _answer_again(self, again: Sequence[Place], gates: dict[Place, Gate]) -> None:
        """Say again what gates have said to executions that have drawn a ticket before."""
        drawn = await self._tickets.read(again)  # before the documents: what is stamped was in one of them first
        kept = await self._tickets.documents({gate_id for gate_id, _ in again})
        said: list[Said] = []
        lost: dict[Place, int] = {}
        for place in again:
            gate_id, execution_id = place
            document, one = kept[gate_id].document, drawn.get(place)
            terms = document.state.terms
            if one is None:  # its time was up just now
                lost[place] = 0
            elif one.ticket.verdict in {"admitted", "refused"}:
                said.append((gates[place], terms, Notice(execution_id, one.ticket.verdict)))
            elif one.ticket.verdict == "left" or one.sequence > document.state.cursor:
                continue
            elif execution_id in document.state.inside:
                said.append((gates[place], terms, Notice(execution_id, "admitted", one.sequence)))
            elif not _is_pending(document, execution_id):
                lost[place] = one.sequence
        await self._notices.say(said, self._clock())
        # Decided on, told and not stamped: the server has lost what it had acknowledged last. They draw anew.
        await self._tickets.renew(lost, self._clock())

    def _arm(self, gate: Gate, outcome: Outcome) -> None:
        """Look at the gate again when time changes something, or in a while if somebody waits."""
        timer = self._timers.pop(gate.id, None)
        if timer is not None:
            timer.cancel()
        if outcome.next_due is not None:
            self._wake(gate, max(0.01, outcome.next_due - self._clock()))
        elif outcome.is_full:
            self._wake(gate, RECHECK_S)

    def _wake(self, gate: Gate, delay_s: float) -> None:
        self._timers[gate.id] = asyncio.get_running_loop().call_later(delay_s, self._expire, gate)

    def _expire(self, gate: Gate) -> None:
        del self._timers[gate.id]
        self._due[gate.id] = gate
        if self._attending is None or self._attending.done():
            self._attending = asyncio.get_running_loop().create_task(self._attend(), name="gates")

    async def _attend(self) -> None:
        """Look at the gates whose time has come."""
        while self._due:
            due, self._due = self._due, {}
            try:
                async with self._turn:
                    await self._settle(_Visit(gate) for gate in due.values())
            except Exception as error:  # whatever it is, those who wait must not wait for ever
                log.warning("%d gates are looked at later", len(due), exc_info=error)
                for gate in due.values():
                    if gate.id not in self._timers:
                        self._wake(gate, RETRY_S)


def _concerns(visit: _Visit, kept: Kept) -> bool:
    """Whether a visit may change anything: who leaves takes up a place where it is inside, or taken in, only."""
    state = kept.document.state
    return visit.gate.rule == "concurrency" or not visit.leaving or leave(state, visit.leaving) is not state


def _is_pending(document: GateDocument, execution_id: str) -> bool:
    """Whether the gate knows of the execution and will say something to it."""
    pending = {one.execution_id for one in document.state.next} | {one.execution_id for one in document.notices}
    return execution_id in pending
