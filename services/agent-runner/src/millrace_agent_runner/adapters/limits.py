"""Rate limits that all runners share: buckets in Postgres, and a line before each.

What may be taken is decided under the locks of all buckets that a call asks for, so it is taken from all of them or
none, and two runners never take the same. A call that has to wait stands in one line only, that of the bucket which
makes it wait longest: a workspace that waits for its own limit holds up nobody at a limit that all share.

A call keeps its place in the line by its conversation: an attempt that gave its slot back finds it again. One that does
not come back is passed over `RETURN_GRACE_S` after it was to, and forgotten in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from millrace_agent_runner.adapters import limits_sql as sql
from millrace_agent_runner.domain.buckets import WINDOW_S, Bucket
from millrace_agent_runner.domain.estimates import Learned
from millrace_agent_runner.domain.limits import Demand, Grant, Limit, Room, Wait, demands_of, merged, room_for
from millrace_agent_runner.errors import LimitsUnavailable
from millrace_shared.postgres import Pool, is_unavailable

if TYPE_CHECKING:
    from millrace_agent_runner.adapters.database import Session

log = logging.getLogger(__name__)

REREAD_S = 5.0
RETURN_GRACE_S = 15.0
FORGET_S = 600.0
RETURN_S_MAX = 60.0
"""Whoever waits looks again after a minute at the latest: what it will wait for was an estimate."""
RETURN_SHARE = 0.5
"""Whoever waits comes back after this much of the time, since those ahead may use less than was thought: a turn that
nobody is there to take is lost. So the looks double as the turn comes near, and a long line takes a few more."""


class Limits:
    """The limits that are kept in the database, and those that hold by default.

    Args:
        pool: of the schema `spend`.
        defaults: hold unless the database has others with the same key.
        window_s: how long a "minute" is; tests make it shorter.
    """

    def __init__(self, pool: Pool, defaults: Sequence[Limit] = (), window_s: float = WINDOW_S) -> None:
        self._pool = pool
        self._defaults = tuple(defaults)
        self._window_s = window_s
        self._limits = self._defaults
        self._learned: dict[tuple[str, str], Learned] = {}
        self._blocks: dict[tuple[str, str], float] = {}
        self._known: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the limits, and read them again from time to time."""
        await self.read()
        self._reading = asyncio.create_task(self._read_on(), name="rate limits")

    async def stop(self) -> None:
        """Stop to read, and write what is still to be settled."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def read(self) -> None:
        """Read limits, pauses, and what was learned of models; forget those who left the lines long ago."""
        kept = [Limit(**record) for record in await self._pool.fetch(sql.READ_LIMITS)]
        self._limits = merged(self._defaults, kept)
        self._learned = {
            (record["provider"], record["model"]): Learned(record["input_ratio"], record["output_tokens"])
            for record in await self._pool.fetch(sql.READ_LEARNED)
        }
        now = time.monotonic()
        self._blocks = {
            (record["provider"], record["model"]): now + record["remaining_s"]
            for record in await self._pool.fetch(sql.READ_BLOCKS)
        }
        await self._pool.execute(sql.FORGET_WAITING, FORGET_S)

    def learned(self, provider: str, model: str) -> Learned:
        """Return what is known about the calls of a model."""
        return self._learned.get((provider, model), Learned())

    def demands(self, workspace: str, provider: str, model: str, tokens: int) -> list[Demand]:
        """Return what a call asks for under the limits that hold for it; nothing if none does."""
        return demands_of(self._limits, workspace, provider, model, tokens)

    def pause_s(self, provider: str, model: str) -> float:
        """Return for how long a model may not be called, as far as this process knows."""
        return max(0.0, self._blocks.get((provider, model), 0.0) - time.monotonic())

    async def reserve(self, conversation: str, model: tuple[str, str], demands: Sequence[Demand]) -> Grant | Wait:
        """Take all that a call asks for, or a place in the line.

        Args:
            conversation: whose next call it is; it has one place.
            model: provider and model.
            demands: at least one.

        Raises:
            LimitsUnavailable: the database is away.
        """
        try:
            return await self._reserve(conversation, model, sorted(demands))
        except Exception as error:
            if is_unavailable(error):
                raise LimitsUnavailable("the database that holds the rate limits does not answer") from error
            raise

    def settle(self, grant: Grant, tokens: int) -> None:
        """Put what a call did use in the place of what was thought, soon."""
        off = [demand for demand in grant.demands if demand.kind == "tokens" and demand.units != tokens]
        if off:
            self._soon(self._settle(off, grant.taken_at, tokens))

    def learn(self, provider: str, model: str, counted: int, input_tokens: int, output_tokens: int) -> None:
        """Correct the estimates of a model by what a call used."""
        learned = self.learned(provider, model).learn(counted, input_tokens, output_tokens)
        self._learned[provider, model] = learned
        self._soon(self._execute(sql.LEARN, provider, model, learned.input_ratio, learned.output_tokens))

    def block(self, provider: str, model: str, pause_s: float) -> None:
        """Let no runner call a model for a while, since its provider asks for that."""
        until = time.monotonic() + pause_s
        self._blocks[provider, model] = max(until, self._blocks.get((provider, model), 0.0))
        self._soon(self._execute(sql.BLOCK, provider, model, pause_s))

    async def _reserve(self, conversation: str, model: tuple[str, str], demands: Sequence[Demand]) -> Grant | Wait:
        names = [demand.bucket for demand in demands]
        await self._ensure(names)
        async with self._pool.acquire() as connection, connection.transaction():
            buckets = await self._locked(connection, demands)
            scene = await connection.fetch(sql.READ_LINES, conversation, names, *model, RETURN_GRACE_S)
            now = scene[0]["now"]
            ahead = {record["bucket"]: record["ahead"] for record in scene}
            asked = [(demand, buckets[demand.bucket], ahead[demand.bucket]) for demand in demands]
            room = room_for(asked, scene[0]["blocked_until"], now)
            if room.at > now:
                return await self._stand_in_line(connection, conversation, room, now)
            await self._write(
                connection, [(demand.bucket, bucket.take(demand.units, now)) for demand, bucket, _ in asked]
            )
            if scene[0]["is_waiting"]:
                await connection.execute(sql.LEAVE_LINE, conversation)
            return Grant(tuple(demands), now)

    @staticmethod
    async def _stand_in_line(connection: Session, conversation: str, room: Room, now: float) -> Wait:
        wait_s = room.at - now
        return_s = min(RETURN_S_MAX, wait_s * RETURN_SHARE)
        demand = room.narrowest
        await connection.execute(sql.STAND_IN_LINE, conversation, demand.bucket, demand.units, now + return_s)
        reason = f"a pause that {demand.limit.provider} asked for" if room.is_paused else demand.text
        return Wait(wait_s, return_s, reason)

    async def _settle(self, off: Sequence[Demand], taken_at: float, tokens: int) -> None:
        async def settle() -> None:
            async with self._pool.acquire() as connection, connection.transaction():
                buckets = await self._locked(connection, off)
                now = await connection.fetchval(sql.NOW)
                changed = [
                    (demand.bucket, buckets[demand.bucket].settle(taken_at, tokens - demand.units, now))
                    for demand in off
                ]
                await self._write(connection, changed)

        await self._without_failing(settle())

    async def _locked(self, connection: Session, demands: Iterable[Demand]) -> dict[str, Bucket]:
        """Lock buckets, always in the same order, and return them."""
        limits = {demand.bucket: demand.per_minute for demand in demands}
        records = await connection.fetch(sql.LOCK_BUCKETS, sorted(limits))
        if len(records) < len(limits):  # the database was emptied, or set back to before they were made
            self._known.clear()
            raise LimitsUnavailable("the rate limits' buckets were removed; they are made anew")
        return {
            record["bucket"]: Bucket(
                limits[record["bucket"]],
                self._window_s,
                record["paced_to"],
                record["newest"],
                tuple(record["used"]),
            )
            for record in records
        }

    @staticmethod
    async def _write(connection: Session, buckets: Iterable[tuple[str, Bucket]]) -> None:
        rows = [(name, bucket.paced_to, bucket.newest, bucket.used) for name, bucket in buckets]
        await connection.executemany(sql.WRITE_BUCKET, rows)

    async def _ensure(self, names: Sequence[str]) -> None:
        if not self._known.issuperset(names):
            await self._pool.execute(sql.ENSURE_BUCKETS, names)
            self._known.update(names)

    async def _execute(self, statement: str, *values: Any) -> None:
        await self._without_failing(self._pool.execute(statement, *values))

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_on(self) -> None:
        while True:
            await asyncio.sleep(REREAD_S)
            await self._without_failing(self.read())

    @staticmethod
    async def _without_failing(work: Coroutine[Any, Any, Any]) -> None:
        """What was thought stands where what was used cannot be written; the limits that are known hold on."""
        try:
            await work
        except Exception as error:  # noqa: BLE001  asyncpg has many, and none of them is the step's
            log.warning("the rate limits' database: %s: %s", type(error).__name__, error)
