"""What gates have to say: to executions, by their inboxes, and on their tickets.

A notice stands in the gate's document until the next change of it. Whoever makes that change says it first, unless it
knows that it was said; the inbox takes the same notice once within its window for duplicates.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters.tickets import Kept, Place, Stamp, Tickets
from millrace_orchestrator.domain.gates import Gate, refusal
from millrace_shared import subjects
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.errors import MillraceError
from millrace_shared.gates import Notice, Terms, Verdict
from millrace_shared.messages import Admission, CancelRequest

NOTICE_AGE_MAX_S = 600.0
"""What is older was said, or is asked for again by the lease of the execution that it is for."""
REMEMBERED_MAX = 20_000
REQUESTED_BY = "flow control"

Said = tuple[Gate, Terms, Notice]


class Notices:
    """Says notices, and remembers of which documents it has. Everything raises what the publisher does."""

    def __init__(self, publisher: Publisher, tickets: Tickets) -> None:
        self._publisher = publisher
        self._tickets = tickets
        self._told: OrderedDict[str, int] = OrderedDict()

    async def tell_untold(self, kept: Sequence[tuple[Gate, Kept]], now: float) -> None:
        """Say what others have decided, in case they did not live to say it."""
        oldest = now - NOTICE_AGE_MAX_S
        untold = [
            (gate, one)
            for gate, one in kept
            if one.document.notices and one.document.at > oldest and self._told.get(gate.id) != one.sequence
        ]
        await self.tell(untold, now)

    async def tell(self, kept: Sequence[tuple[Gate, Kept]], now: float) -> list[Place]:
        """Say what documents have to say; return the places of executions that were admitted after they had left."""
        said = [(gate, one.document.state.terms, notice) for gate, one in kept for notice in one.document.notices]
        left = await self.say(said, now)
        for gate, one in kept:
            self._told[gate.id] = one.sequence
            self._told.move_to_end(gate.id)
            if len(self._told) > REMEMBERED_MAX:
                self._told.popitem(last=False)
        return left

    async def say(self, said: Sequence[Said], now: float) -> list[Place]:
        """Send notices and stamp the tickets; return the places of those that were admitted after they had left."""
        for result in await self._publisher.publish_all([_outgoing(*one) for one in said]):
            if isinstance(result, MillraceError):
                raise result
        for gate, _, notice in said:
            metrics.gate_verdicts[gate.rule, notice.kind].inc()
        stamped_before = await self._tickets.stamp([_stamp(gate, one) for gate, _, one in said if one.sequence], now)
        if not stamped_before:
            return []
        drawn = await self._tickets.read(stamped_before)
        return [place for place, one in drawn.items() if one.ticket.verdict == "left"]


def _stamp(gate: Gate, notice: Notice) -> Stamp:
    verdict: Verdict = "admitted" if notice.kind == "admitted" else "refused"
    return Stamp((gate.id, notice.execution_id), notice.sequence, verdict)


def _outgoing(gate: Gate, terms: Terms, notice: Notice) -> Outgoing:
    execution_id = notice.execution_id
    message: Admission | CancelRequest
    if notice.kind == "cancel":
        message = CancelRequest(execution_id, f"gate-{gate.id}", refusal(gate, terms), REQUESTED_BY)
    elif notice.kind == "refused":
        message = Admission(execution_id, gate.id, admitted=False, reason=refusal(gate, terms))
    else:
        message = Admission(execution_id, gate.id, admitted=True)
    identity = f"{gate.id}:{execution_id}:{notice.kind}"
    return Outgoing(subjects.inbox(execution_id), encode(message), message_id=identity)
