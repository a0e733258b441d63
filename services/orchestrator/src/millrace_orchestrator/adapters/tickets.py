"""Tickets and documents of gates, in the stream GATES.

A ticket is published on an empty subject only, so that it is drawn once however often an execution enters. Once it is
decided on it is stamped, under the fence of its own sequence, and the server removes it `STAMP_TTL_S` later: until then
nobody can draw it again out of an old memory, and whoever asks again gets the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from millrace_orchestrator.domain.gates import Gate, is_idle
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import WrongLastSequence
from millrace_shared.bus.log_reader import PAGE_MESSAGES, read_last_of_each, read_page
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.errors import MillraceError
from millrace_shared.gates import GateDocument, Ticket, Verdict, Waiting, decode_gate, decode_ticket

STAMP_TTL_S = 600
"""How long a decided ticket is kept: by then what it says has long been taken in."""
IDLE_TTL_S = 3600
"""How long the document of a gate is kept that nobody is inside of, so that keys that are used once leave nothing. It
outlives the stamps, so what was decided on under a cursor that is gone is gone, too."""
PAGE_LEAST = 8
"""Tickets that are read at once at least: there may be stamped ones among them."""

Place = tuple[str, str]
"""A gate's id and an execution's."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A ticket as it is stored."""

    ticket: Ticket
    sequence: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """A verdict to be put on the ticket that has this stream sequence."""

    place: Place
    sequence: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Kept:
    """A gate's document and its stream sequence, which is 0 when there is none."""

    document: GateDocument
    sequence: int


NOBODY = Kept(GateDocument(0.0), 0)


class Tickets:
    """The stream GATES. Everything raises `BusUnavailable` when the server does not answer."""

    def __init__(self, connection: Connection, publisher: Publisher) -> None:
        self._connection = connection
        self._publisher = publisher

    async def draw(self, places: Sequence[Place], at: float) -> list[Place]:
        """Draw a ticket for each execution that has none; return the places of those that have one already."""
        ticket = encode(Ticket(at))
        messages = [Outgoing(subjects.gate_ticket(*place), ticket, 0) for place in places]
        return [place for place, was_free in zip(places, await self._fenced(messages), strict=True) if not was_free]

    async def read(self, places: Iterable[Place]) -> dict[Place, Drawn]:
        """Return the tickets that there are, waiting or stamped."""
        by_subject = {subjects.gate_ticket(*place): place for place in places}
        stored = await read_last_of_each(self._connection, "GATES", list(by_subject))
        return {by_subject[one.subject]: Drawn(decode_ticket(one.payload), one.sequence) for one in stored}

    async def stamp(self, stamps: Sequence[Stamp], at: float) -> list[Place]:
        """Put verdicts on tickets; return the places of those that have been stamped by somebody else, or are gone."""
        messages = [
            Outgoing(
                subjects.gate_ticket(*one.place),
                encode(Ticket(at, one.verdict)),
                one.sequence,
                extra={"Nats-TTL": f"{STAMP_TTL_S}s"},
            )
            for one in stamps
        ]
        return [one.place for one, was_first in zip(stamps, await self._fenced(messages), strict=True) if not was_first]

    async def renew(self, places: Mapping[Place, int], at: float) -> None:
        """Put tickets at the end of the queue if they still have the given sequences."""
        ticket = encode(Ticket(at))
        await self._fenced([Outgoing(subjects.gate_ticket(*place), ticket, last) for place, last in places.items()])

    async def waiting(self, gate_id: str, after: int, count: int) -> list[Waiting]:
        """Return the first `count` waiting tickets after a stream sequence, or all there are."""
        found: list[Waiting] = []
        subject, size = subjects.gate_ticket(gate_id, "*"), max(count, PAGE_LEAST)
        while len(found) < count:
            page = await read_page(self._connection, "GATES", subject, after + 1, size)
            for one in page:
                ticket = decode_ticket(one.payload)
                if not ticket.verdict:
                    found.append(Waiting(one.subject.rsplit(".", 1)[1], one.sequence, ticket.at))
            if len(page) < size:
                break
            after, size = page[-1].sequence, min(4 * size, PAGE_MESSAGES)
        return found[:count]

    async def documents(self, gate_ids: Iterable[str]) -> dict[str, Kept]:
        """Return the documents of gates; of each, even if nothing is stored."""
        kept = dict.fromkeys(gate_ids, NOBODY)
        for one in await read_last_of_each(self._connection, "GATES", [subjects.gate_state(gate) for gate in kept]):
            kept[subjects.gate_id_of(one.subject)] = Kept(decode_gate(one.payload), one.sequence)
        return kept

    async def write(self, changes: Sequence[tuple[Gate, int, GateDocument]]) -> list[int]:
        """Replace documents that still have the given sequences.

        Returns:
            For each the sequence that it has now, or 0 when somebody else has replaced it before.
        """
        messages = []
        for gate, last, document in changes:
            extra = None
            if is_idle(document.state):
                extra = {"Nats-TTL": f"{int(document.state.terms.per_s) + IDLE_TTL_S}s"}
            messages.append(Outgoing(subjects.gate_state(gate.id), encode(document), last, extra=extra))
        return await self._fenced(messages)

    async def _fenced(self, messages: Sequence[Outgoing]) -> list[int]:
        """Publish messages, each under its fence; return their sequences, 0 for a fence that was lost."""
        sequences: list[int] = []
        failed: MillraceError | None = None
        for result in await self._publisher.publish_all(messages):
            if isinstance(result, int):
                sequences.append(result)
            elif isinstance(result, WrongLastSequence):
                sequences.append(0)
            else:
                failed = result
        if failed is not None:
            raise failed
        return sequences
