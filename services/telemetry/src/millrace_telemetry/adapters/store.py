"""The tables of the projection: one connection, one writer per stream, one transaction per batch.

Commits are asynchronous (`synchronous_commit=off`). After a crash Postgres may have lost the last transactions, each
one wholly, rows and offset together, and the log, which is the truth and is durable, gives them again. Waiting for
its disk as well would buy nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from millrace_shared import postgres
from millrace_shared.errors import DatabaseUnavailable
from millrace_shared.execution.tables import TABLES
from millrace_shared.postgres import Connection
from millrace_telemetry.adapters import sql
from millrace_telemetry.domain.batch import FactBatch, LogBatch, Starts
from millrace_telemetry.errors import OffsetMoved, ValueRefused, WriteFailed

log = logging.getLogger(__name__)

APPLICATION_NAME = "millrace-telemetry"
SESSION = {"synchronous_commit": "off"}
LEAD_POLL_S = 0.5
"""How often a standby looks whether it may lead."""
BEAT_S = 1.0
"""How often a leader that has nothing to write says that it is there."""
SILENT_S = 4.0
"""A leader that has said nothing for this long is stopped, or cut off, and its connection is ended by a standby."""
REASON_CHARACTERS_MAX = 300
WRITE_ORDER = ("executions", "steps", "attempts", "transitions")

_REFUSED = (
    asyncpg.DataError,  # class 22, and what asyncpg itself cannot encode
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)


@dataclass(frozen=True, slots=True)
class Offset:
    """How far a stream is projected: the sequence of the last message, and its subject ("" at the beginning)."""

    sequence: int = 0
    subject: str = ""


class Store:
    """Writes what one stream projects. Not for concurrent use."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._has_numbers = False

    @classmethod
    async def open(cls, url: str, stream: str, *, wait_s: float = postgres.START_WAIT_S) -> Store:
        """Connect.

        Raises:
            DatabaseUnavailable: no server answered in time.
            DatabaseRefused: user, password or database are wrong.
        """
        connection = await postgres.connect(
            url, application_name=f"{APPLICATION_NAME} {stream}", server_settings=SESSION, wait_s=wait_s
        )
        return cls(connection, stream)

    async def close(self) -> None:
        """Close the connection, at once: a transaction that is open is lost, and will be written again."""
        self._connection.terminate()

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the connection ends, for whatever reason."""
        self._connection.add_termination_listener(lambda _connection: callback())

    async def on_reset(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the tables were emptied (`reset`), by whichever process."""
        with _errors_of("listening"):
            await self._connection.add_listener(sql.RESET_CHANNEL, lambda *_: callback())

    async def lead(self) -> None:
        """Wait until no other process writes this stream. The lead ends with the connection.

        One that has it and is silent for `SILENT_S` loses it: a process that is stopped keeps its connection open for
        as long as it likes. Who leads is for economy: two that write in turns would do everything twice. The fence in
        `write` is what keeps the tables right.
        """
        with _errors_of("waiting to write"):
            while not await self._connection.fetchval(sql.LEAD, sql.SCHEMA, self._stream):
                silent = timedelta(seconds=SILENT_S)
                if await self._connection.fetchval(sql.DEPOSE_SILENT, sql.SCHEMA, self._stream, silent):
                    log.warning("who projected %s was silent for %g s: its connection is ended", self._stream, SILENT_S)
                await asyncio.sleep(LEAD_POLL_S)

    async def beat(self) -> None:
        """Say that this process still leads; needed every `BEAT_S` unless there is something to write."""
        with _errors_of("leading"):
            await self._connection.execute(sql.BEAT)

    async def offset(self) -> Offset:
        """Return how far this stream is projected."""
        with _errors_of("reading the offset"):
            record = await self._connection.fetchrow(sql.READ_OFFSET, self._stream)
        if record is None:
            return Offset()
        # Who empties the tables meanwhile, and puts numbers aside, moves the offset: then it is read again.
        self._has_numbers = record["has_numbers"]
        return Offset(record["sequence"], record["subject"])

    async def versions(self, execution_ids: Sequence[str]) -> dict[str, int]:
        """Return the last version that the tables hold of each of these executions that they hold."""
        if not execution_ids:
            return {}
        with _errors_of("reading versions"):
            records = await self._connection.fetch(sql.READ_VERSIONS, execution_ids)
        return {record["id"]: record["last_version"] for record in records}

    async def write(self, batch: LogBatch | FactBatch, old: Offset, new: Offset) -> None:
        """Write `batch`, and move the offset from `old` to `new`: both or neither.

        Raises:
            OffsetMoved: the offset is not `old` any more.
            ValueRefused: Postgres will never take one of the values.
            WriteFailed: Postgres cannot write now.
            DatabaseUnavailable: the connection is lost; whether it was written, the offset says.
        """
        with _errors_of("writing a batch"):
            async with self._connection.transaction():
                moved = await self._connection.execute(
                    sql.MOVE_OFFSET, self._stream, old.sequence, new.sequence, new.subject
                )
                if moved != "UPDATE 1":
                    raise OffsetMoved(
                        f"the offset of {self._stream} is no longer {old.sequence}: another process projects it"
                    )
                if isinstance(batch, LogBatch):
                    await self._write_log(batch)
                else:
                    await self._write_facts(batch)

    async def ended(self, after: str, count: int) -> list[str]:
        """Return the ids of the first `count` executions after `after`, by id, that have an end in the tables."""
        with _errors_of("reading what has ended"):
            return [record["id"] for record in await self._connection.fetch(sql.ENDED, after, count)]

    async def keep(self, execution_ids: Sequence[str]) -> None:
        """Let the next `reset` of this connection leave the rows of these executions: no log gives them again."""
        with _errors_of("preparing a rebuild"):
            await self._connection.execute(sql.MAKE_KEPT)
            await self._connection.execute(sql.KEEP, execution_ids)

    async def reset(self) -> int:
        """Empty the projected tables, but for what is to be kept, and start every stream anew, in one transaction.

        Returns:
            The executions whose rows were kept.
        """
        with _errors_of("emptying the tables"):
            async with self._connection.transaction():
                # The offsets first, as `write` does: both take their locks in the same order.
                await self._connection.execute(sql.RESET_OFFSETS)
                await self._connection.execute(sql.MAKE_KEPT)
                await self._connection.execute(sql.KEEP_NUMBERS)
                kept: int = await self._connection.fetchval(sql.COUNT_KEPT)
                for statement in sql.DELETE_ALL_BUT_KEPT if kept else (sql.TRUNCATE_PROJECTED,):
                    await self._connection.execute(statement)
                await self._connection.execute(sql.DROP_KEPT)
                await self._connection.execute(sql.TELL_OF_RESET)
        return kept

    async def counts(self) -> dict[str, Any]:
        """Return how many rows there are: of each table, and of executions and steps by status."""
        with _errors_of("counting"):
            async with self._connection.transaction(isolation="repeatable_read", readonly=True):
                rows = {name: await self._connection.fetchval(statement) for name, statement in sql.ROW_COUNTS.items()}
                by_status = {
                    name: {record[0]: record[1] for record in await self._connection.fetch(statement)}
                    for name, statement in sql.STATUS_COUNTS.items()
                }
        return {"rows": rows, "executions": by_status["executions"], "steps": by_status["steps"]}

    async def _write_log(self, batch: LogBatch) -> None:
        await self._number(batch)
        for name in WRITE_ORDER:
            rows = batch.changes.tables.get(name)
            if rows:
                for statement, arrays in sql.writes(TABLES[name], rows):
                    await self._connection.execute(statement, *arrays)

    async def _number(self, batch: LogBatch) -> None:
        """Number the executions that begin here: as they were before a rebuild, else on from the last one given."""
        starts = batch.starts()
        if self._has_numbers:
            starts = await self._numbered_anew(starts)
        if not starts:
            return
        records = await self._connection.fetch(
            sql.COUNT_EXECUTIONS,
            [workspace for workspace, _ in starts],
            [workflow_id for _, workflow_id in starts],
            [len(rows) for rows in starts.values()],
        )
        for workspace, workflow_id, last in records:
            rows = starts[workspace, workflow_id].values()
            for number, row in enumerate(rows, last - len(rows) + 1):
                row.set["execution_number"] = number

    async def _numbered_anew(self, starts: Starts) -> Starts:
        """Give those executions their numbers that had one before a rebuild; return the others."""
        ids = [execution_id for rows in starts.values() for execution_id in rows]
        records = await self._connection.fetch(sql.TAKE_NUMBERS, ids) if ids else []
        numbers: dict[str, int] = {record["execution_id"]: record["number"] for record in records}
        others: Starts = {}
        for workflow, rows in starts.items():
            for execution_id, row in rows.items():
                if execution_id in numbers:
                    row.set["execution_number"] = numbers[execution_id]
                else:
                    others.setdefault(workflow, {})[execution_id] = row
        return others

    async def _write_facts(self, batch: FactBatch) -> None:
        for statement, rows in (
            (sql.WRITE_ATTEMPT_STARTS, batch.attempt_starts),
            (sql.WRITE_LLM_CALLS, batch.llm_calls),
        ):
            if rows:
                await self._connection.execute(statement, *map(list, zip(*rows.values(), strict=True)))


@contextmanager
def _errors_of(doing: str) -> Iterator[None]:
    """Turn what asyncpg raises into our own errors. Messages name the reason, and hold no statement or value."""
    try:
        yield
    except _REFUSED as error:
        raise ValueRefused(f"Postgres refuses a value: {_reason(error)}") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        if postgres.is_unavailable(error):
            raise DatabaseUnavailable(f"Postgres went away while {doing} ({type(error).__name__})") from error
        raise WriteFailed(f"Postgres failed while {doing}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Say what Postgres, or asyncpg before it, objected to. Where asyncpg quotes the value, that is left out."""
    text = str(error).partition("\n")[0]
    if text.startswith("invalid input for query argument"):
        text = text.rpartition("(")[2].rstrip(")")
    return f"{type(error).__name__}: {text[:REASON_CHARACTERS_MAX]}"
