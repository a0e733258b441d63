"""Counting what comes of triggers: in memory at once, in Postgres a moment later, many at a time.

A process that is killed takes the counts of its last moment with it. What was started is not told by counts.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from millrace_api.adapters import trigger_sql as sql
from millrace_api.domain.triggers import Tally
from millrace_shared.postgres import Pool, is_unavailable

log = logging.getLogger(__name__)

FLUSH_S = 0.2
WAITING_MAX = 10_000
"""Triggers with counts that are not written yet. While the database is away, those of further ones are dropped."""


@dataclass(slots=True)
class _Counts:
    fired: int = 0
    repeated: int = 0
    filtered: int = 0
    failed: int = 0
    missed: int = 0
    last_fired_at: datetime | None = None
    last_scheduled_at: datetime | None = None
    last_execution_id: str | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None

    def add(self, more: Tally) -> None:
        for name in ("fired", "repeated", "filtered", "failed", "missed"):
            setattr(self, name, getattr(self, name) + getattr(more, name))
        for name in ("last_fired_at", "last_scheduled_at", "last_execution_id", "last_error", "last_error_at"):
            if getattr(more, name) is not None:
                setattr(self, name, getattr(more, name))


class Tallies:
    """Adds up counts by trigger, and writes them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: dict[str, _Counts] = {}
        self._flushing: asyncio.Task[None] | None = None

    def add(self, trigger_id: str, more: Tally) -> None:
        """Add to the counts of a trigger."""
        if trigger_id not in self._waiting and len(self._waiting) >= WAITING_MAX:
            return
        self._waiting.setdefault(trigger_id, _Counts()).add(more)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_later(), name="count triggers")

    async def drain(self) -> None:
        """Write what is not written yet."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        await self._flush()

    async def _flush_later(self) -> None:
        while self._waiting:
            await asyncio.sleep(FLUSH_S)
            if not await self._flush():
                return  # the next count tries again

    async def _flush(self) -> bool:
        counted, self._waiting = self._waiting, {}
        rows = [(trigger_id, *(getattr(one, name) for name in one.__slots__)) for trigger_id, one in counted.items()]
        try:
            await self._pool.executemany(sql.TALLY, sorted(rows, key=lambda row: str(row[0])))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if not is_unavailable(error):
                log.exception("the counts of %d triggers cannot be written", len(rows))
                return False
            log.warning("the database does not answer: the counts of %d triggers wait", len(rows))
            self._put_back(counted)
            return False
        except asyncio.CancelledError:
            self._put_back(counted)
            raise
        return True

    def _put_back(self, counted: dict[str, _Counts]) -> None:
        for trigger_id, counts in counted.items():
            later = self._waiting.get(trigger_id)
            if later is not None:
                counts.add(Tally(**{name: getattr(later, name) for name in later.__slots__}))
            self._waiting[trigger_id] = counts
