"""The stream DEAD: reading it newest first, and sending what is in it again."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from millrace_api.domain.dead_letters import Kept, Redrive, cannot_redrive
from millrace_api.errors import Refused
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import BusRefused, WrongLastSequence
from millrace_shared.bus.log_reader import Stored, read_last_of_each, read_next, read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.messages import DeadLetter

REDRIVE_HEADER = "Millrace-Redrive"
"""Names the dead letter, by its sequence, that a message first was."""
WINDOW_MESSAGES = 256
"""Messages that are read at once, from the end of the stream backwards."""
WINDOWS_MAX = 64
"""Windows that are searched for one page: a filter that matches little ends its page early, with a cursor to go on."""

_decoder = msgspec.json.Decoder(DeadLetter)
_redrive_decoder = msgspec.json.Decoder(Redrive)


class DeadLetters:
    """Reads and redrives dead letters."""

    def __init__(self, connection: Connection, publisher: Publisher, now: Callable[[], float] = time.time) -> None:
        self._connection = connection
        self._publisher = publisher
        self._now = now

    async def page(
        self, wanted: Callable[[DeadLetter], bool], stream: str | None, before: int | None, limit: int
    ) -> tuple[list[Kept], int | None]:
        """Return letters, newest first.

        Args:
            wanted: whether a letter belongs on the page.
            stream: only those of this stream.
            before: only those with a lower sequence.
            limit: at most so many.

        Returns:
            The letters, and the sequence before which to go on, if there may be more.

        Raises:
            BusUnavailable: the bus did not answer.
        """
        state = (await self._connection.jetstream_api("STREAM.INFO.DEAD"))["state"]
        first = int(state["first_seq"])
        end = int(state["last_seq"]) + 1 if before is None else min(before, int(state["last_seq"]) + 1)
        subject = subjects.dead("*" if stream is None else stream)
        found: list[Kept] = []
        for _ in range(WINDOWS_MAX):
            if end <= first:
                return await self._noted(found), None
            start = max(first, end - WINDOW_MESSAGES)
            newest = await self._window(subject, start, end, wanted, limit - len(found))
            found += reversed(newest)
            if len(found) == limit:
                return await self._noted(found), found[-1].sequence
            end = start
        return await self._noted(found), end

    async def count(self, stream: str | None) -> int:
        """Return how many letters there are, all workspaces together.

        Raises:
            BusUnavailable: the bus did not answer.
        """
        subject = subjects.dead("*" if stream is None else stream)
        info = await self._connection.jetstream_api("STREAM.INFO.DEAD", {"subjects_filter": subject})
        return sum((info["state"].get("subjects") or {}).values())

    async def find(self, sequence: int) -> DeadLetter | None:
        """Return the letter of a sequence, or None when there is none (any more).

        Raises:
            BusUnavailable: the bus did not answer.
        """
        stored = await read_next(self._connection, "DEAD", subjects.dead("*"), max(1, sequence))
        return _letter(stored) if stored is not None and stored.sequence == sequence else None

    async def get(self, sequence: int) -> Kept | None:
        """Return the letter of a sequence with the note of its last redrive.

        Raises:
            BusUnavailable: the bus did not answer.
        """
        letter = await self.find(sequence)
        return None if letter is None else (await self._noted([Kept(sequence, letter, len(letter.payload))]))[0]

    async def redrive(self, kept: Kept, by: str) -> Kept:
        """Send a letter's message again, where it was sent first, and note that.

        Two who do it at the same moment send it once.

        Raises:
            Refused: `dead_letter_not_redrivable`.
            BusUnavailable: it may or may not have been sent; doing it again within two minutes does no harm.
        """
        letter = kept.letter
        reason = cannot_redrive(letter)
        if reason is not None:
            raise Refused("dead_letter_not_redrivable", f"dead letter {kept.sequence} cannot be sent again: {reason}")
        count = 1 if kept.redrive is None else kept.redrive.count + 1
        headers = {**letter.headers}
        if letter.stream == "TRIGGERS":
            headers.setdefault(REDRIVE_HEADER, str(kept.sequence))
        message = Outgoing(letter.subject, letter.payload, message_id=f"redrive:{kept.sequence}:{count}", extra=headers)
        try:
            ack = await self._publisher.publish(message)
        except BusRefused as error:
            reason = f"its stream does not take it: {error}"
            raise Refused("dead_letter_not_redrivable", f"dead letter {kept.sequence}: {reason}") from None
        redrive = Redrive(self._now(), by, count, ack.seq)
        last = await self._note_sequence(kept.sequence)
        with contextlib.suppress(WrongLastSequence):  # the other one has noted it
            note = Outgoing(subjects.redriven(kept.sequence), msgspec.json.encode(redrive), last)
            await self._publisher.publish(note)
        return replace(kept, redrive=redrive)

    async def _note_sequence(self, sequence: int) -> int:
        notes = await read_last_of_each(self._connection, "DEAD", [subjects.redriven(sequence)])
        return notes[0].sequence if notes else 0

    async def _window(
        self, subject: str, start: int, end: int, wanted: Callable[[DeadLetter], bool], limit: int
    ) -> deque[Kept]:
        """Return the last `limit` letters from `start` to before `end`, oldest first, without their payloads."""
        newest: deque[Kept] = deque(maxlen=limit)
        async for stored in read_subject(self._connection, "DEAD", subject, start):
            if stored.sequence >= end:
                break
            letter = _letter(stored)
            if letter is not None and wanted(letter):
                bare = msgspec.structs.replace(letter, payload=b"")
                newest.append(Kept(stored.sequence, bare, len(letter.payload)))
        return newest

    async def _noted(self, letters: Sequence[Kept]) -> list[Kept]:
        """Put the notes of redrives to letters."""
        if not letters:
            return []
        wanted = [subjects.redriven(kept.sequence) for kept in letters]
        notes = await read_last_of_each(self._connection, "DEAD", wanted)
        redrives = {note.subject: _redrive_decoder.decode(note.payload) for note in notes}
        return [replace(kept, redrive=redrives.get(subjects.redriven(kept.sequence))) for kept in letters]


def _letter(stored: Stored) -> DeadLetter | None:
    try:
        return _decoder.decode(stored.payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # not one of ours
