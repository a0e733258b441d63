"""Journals in JetStream: the stream JOURNAL, one subject for each conversation (see `domain.journal`).

Each entry is appended with the sequence of the one before it. That is the fence: of two runners that have the same
attempt, the one that comes second finds the subject moved on, and gives up. Whoever goes on with a conversation records
that before anything else, so that it is always the newest that goes on. A conversation that nobody can have begun is
not read at all: its first entry expects an empty subject.

Entries of all conversations of a process share fsyncs (`GroupCommit`). A bus that does not answer is asked again for as
long as the attempt has time: an answer that was paid for is not given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import msgspec

from millrace_agent_runner.domain.journal import ENTRIES_MAX, Body, Entry, Journal, TakenUp, decode_entry
from millrace_agent_runner.errors import RetryableFailure, TakenOver, TerminalFailure
from millrace_shared import subjects
from millrace_shared.blobs import INLINE_BYTES_MAX, Blobs
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import WrongLastSequence
from millrace_shared.bus.group_commit import GroupCommit
from millrace_shared.bus.log_reader import read_last, read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.errors import BusUnavailable
from millrace_shared.messages import RunStep

log = logging.getLogger(__name__)

STREAM = "JOURNAL"
LOOK_AGAIN_S = 1.0
TAKE_UP_TRIES_MAX = 20
"""A replica that lags shows an old end of a journal; the leader then refuses the entry, and it is read again."""


class StoredJournals:
    """The journals of all conversations.

    Args:
        connection: the bus.
        publisher: started, on the same connection.
        blobs: where large entries are kept.
        runner: the name of this process.
    """

    def __init__(self, connection: Connection, publisher: Publisher, blobs: Blobs, runner: str) -> None:
        self._connection = connection
        self._commit = GroupCommit(publisher)
        self._blobs = blobs
        self._runner = runner

    async def open(self, step: RunStep, *, resumes: bool) -> Journal:
        """Open the journal of an attempt's conversation; without `resumes` it is taken to be empty, and not read.

        Raises:
            TakenOver: others keep adding to it.
            StepFailure: it is too long, or was written by a later version.
        """
        subject = subjects.journal(step.execution_id, step.step, step.item, step.iteration)
        journal = StoredJournal(self._connection, self._commit, self._blobs, step.workspace, subject, self._runner)
        if resumes:
            await journal.take_up(step.attempt)
        return journal


class StoredJournal:
    """One journal. Its entries are added one after another, whoever wants to add one."""

    def __init__(
        self, connection: Connection, commit: GroupCommit, blobs: Blobs, workspace: str, subject: str, runner: str
    ) -> None:
        self._connection = connection
        self._commit = commit
        self._blobs = blobs
        self._workspace = workspace
        self._subject = subject
        self._appending = asyncio.Lock()
        self._last = 0
        self.entries: tuple[Entry, ...] = ()
        self.runner = runner

    async def take_up(self, attempt: int) -> None:
        """Read what there is, and record that this runner goes on with it."""
        for _ in range(TAKE_UP_TRIES_MAX):
            entries, self._last = await self._read()
            try:
                await self.append(TakenUp(attempt, time.time(), self.runner))
            except TakenOver:
                await asyncio.sleep(LOOK_AGAIN_S / TAKE_UP_TRIES_MAX)
                continue
            self.entries = tuple(entries)
            return
        raise TakenOver(f"others keep adding to {self._subject}")

    async def append(self, entry: Entry) -> None:
        """Record something; it is durable on return.

        Raises:
            TakenOver: somebody else has recorded something since.
            BusRefused: the bus will never take it.
        """
        payload = encode(entry)
        async with self._appending:
            while True:
                try:
                    self._last = await self._commit.publish(Outgoing(self._subject, payload, self._last))
                except BusUnavailable as error:
                    log.warning("%s: an entry waits for the bus: %s", self._subject, error)
                    await asyncio.sleep(LOOK_AGAIN_S)
                except WrongLastSequence as error:
                    if not await self._is_last(payload):
                        message = f"somebody else has recorded something in {self._subject}, and goes on from there"
                        raise TakenOver(message) from error
                else:
                    return
                if await self._is_last(payload):  # it was stored, and only the answer was lost
                    return

    async def pack(self, document: bytes) -> Body:
        """Return a JSON document as the body of an entry.

        Raises:
            ValueTooLarge: it is over what the blob store takes.
            BlobUnavailable: the store did not take it.
        """
        if len(document) <= INLINE_BYTES_MAX:
            return Body(document=msgspec.Raw(document))
        return Body(blob=await self._blobs.put(self._workspace, document))

    async def unpack(self, body: Body) -> bytes:
        """Return the JSON document of an entry.

        Raises:
            BlobUnavailable: the store does not answer, or does not have it.
        """
        return bytes(body.document) if body.blob is None else await self._blobs.get(self._workspace, body.blob)

    async def _read(self) -> tuple[list[Entry], int]:
        while True:
            with contextlib.suppress(BusUnavailable):
                entries: list[Entry] = []
                last = 0
                async for stored in read_subject(self._connection, STREAM, self._subject):
                    entries.append(self._decoded(stored.payload))
                    last = stored.sequence
                    if len(entries) > ENTRIES_MAX:
                        message = f"{self._subject} has more than {ENTRIES_MAX} entries; start the execution anew"
                        raise TerminalFailure(message, category="internal", code="journal_too_long")
                return entries, last
            log.warning("%s cannot be read now", self._subject)
            await asyncio.sleep(LOOK_AGAIN_S)

    def _decoded(self, payload: bytes) -> Entry:
        try:
            return decode_entry(payload)
        except msgspec.DecodeError as error:
            message = f"{self._subject} holds an entry that this runner does not know: {error}; upgrade the runner"
            raise RetryableFailure(message, category="internal", code="journal_unknown") from error

    async def _is_last(self, payload: bytes) -> bool:
        while True:
            try:
                stored = await read_last(self._connection, STREAM, self._subject)
            except BusUnavailable:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            if stored is None or stored.payload != payload:
                return False
            self._last = stored.sequence
            return True
