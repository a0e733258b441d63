"""The ledger: what calls to models have used, and what they hold while they are made, under every budget.

A call reserves the most that it may use in all of its accounts or in none, under the locks of all of them; what it did
use replaces that when it has ended. What a dead runner held is taken for used as soon as another makes the same call
again, or after `LEASE_S`: it may have been paid for, and nobody can know. A runner that was only slow corrects that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from millrace_agent_runner.adapters import ledger_sql as sql
from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.budgets import (
    Account,
    Amount,
    Breach,
    Budget,
    Busy,
    Fits,
    PeriodBudget,
    Verdict,
    Wanted,
    answers_of,
    budgets_of,
    decide,
)
from millrace_agent_runner.domain.prices import ModelPrice
from millrace_agent_runner.domain.spending import LATE_S, CallKey, Entry, Reservation, Row, State, closed
from millrace_agent_runner.errors import LimitsUnavailable
from millrace_shared.postgres import Pool, is_unavailable

if TYPE_CHECKING:
    from millrace_agent_runner.adapters.database import Session

log = logging.getLogger(__name__)

REREAD_S = 5.0
LEASE_S = 30.0
"""Reservations are renewed by the runner that holds them, each time it reads; without that they end."""
CLOSE_WAIT_S = 2.0
"""How long the end of a call waits for the ledger; then it is written later, and the run goes on."""
CLOSE_PAUSE_S = 1.0
CLOSE_TRIES_MAX = 60
"""Of writing one end while the database is away. After that the reservation is presumed used when it expires."""
EXPIRED_MAX = 200
"""Reservations of the dead that are closed at a time."""
KEPT_DAYS = 400
"""Entries and accounts: a year of months, and some."""
FORGET_S = 3_600.0
FORGOTTEN_MAX = 10_000


class Ledger:
    """The budgets and accounts that all runners share.

    Args:
        pool: of the schema `spend`.
        use_prices: is given the prices that the database has, each time they are read.
        unpriced_fits: calls whose price is unknown are free under budgets in US dollars, in place of breaking them.
        clock: Unix seconds.
    """

    def __init__(
        self,
        pool: Pool,
        use_prices: Callable[[Sequence[ModelPrice]], None] = lambda _: None,
        *,
        unpriced_fits: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pool = pool
        self._use_prices = use_prices
        self._unpriced_fits = unpriced_fits
        self._clock = clock
        self._periods: tuple[PeriodBudget, ...] = ()
        self._known: set[str] = set()
        self._held: dict[Row, float] = {}
        self._forget_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the budgets, and read them again from time to time."""
        await self.read()
        self._reading = asyncio.create_task(self._read_on(), name="budgets")

    async def stop(self) -> None:
        """Stop to read, and write what is still to be closed."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def read(self) -> None:
        """Read budgets and prices, close what the dead hold, and forget what is old."""
        self._periods = tuple(PeriodBudget(**record) for record in await self._pool.fetch(sql.READ_BUDGETS))
        self._use_prices([ModelPrice(**record) for record in await self._pool.fetch(sql.READ_PRICES)])
        await self._renew()
        for record in await self._pool.fetch(sql.EXPIRED, EXPIRED_MAX):
            *key, number, scopes = record
            await self._close(Reservation(CallKey(*key), number, tuple(scopes)), "presumed", None)
        self._known.clear()  # it has a bound, and an account may be forgotten
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGET_S
            await self._pool.execute(sql.FORGET_ENTRIES, KEPT_DAYS, FORGOTTEN_MAX)
            await self._pool.execute(sql.FORGET_ACCOUNTS, KEPT_DAYS, FORGOTTEN_MAX)

    def budgets(self, attempt: Attempt) -> list[Budget]:
        """Return every budget that holds for the calls of an attempt now."""
        return budgets_of(attempt.step, self._periods, datetime.fromtimestamp(self._clock(), UTC))

    async def reserve(
        self, attempt: Attempt, model: tuple[str, str], budgets: Sequence[Budget], wanted: Wanted
    ) -> tuple[Verdict, Reservation | None]:
        """Hold what a call may use in all accounts, or in none; of its tries before, take what they hold for used.

        Args:
            attempt: about to make its call number `call`.
            model: provider and model.
            budgets: at least one.
            wanted: what the call may use.

        Returns:
            What was decided, and what is held if the call fits.

        Raises:
            LimitsUnavailable: the database is away.
        """
        try:
            return await self._reserve(attempt, model, budgets, wanted)
        except Exception as error:
            if is_unavailable(error):
                raise LimitsUnavailable("the database that holds the budgets is away") from error
            raise

    async def settle(self, reservation: Reservation, used: Amount) -> None:
        """Put what a call used in the place of what was held for it. Returns when that is written, or soon after."""
        await asyncio.wait({self.end_soon(reservation, "settled", used)}, timeout=CLOSE_WAIT_S)

    def end_soon(self, reservation: Reservation, state: State, used: Amount | None = None) -> asyncio.Task[None]:
        """Write how a call ended, whatever becomes of the attempt meanwhile."""
        self._held.pop(reservation.row, None)
        task = asyncio.create_task(self._patiently(lambda: self._close(reservation, state, used)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _reserve(
        self, attempt: Attempt, model: tuple[str, str], budgets: Sequence[Budget], wanted: Wanted
    ) -> tuple[Verdict, Reservation | None]:
        key, step = CallKey.of(attempt), attempt.step
        scopes = sorted({budget.scope for budget in budgets})
        approved, _ = answers_of(step.answers)
        if not self._known.issuperset(scopes):
            await self._pool.execute(sql.ENSURE_ACCOUNTS, scopes)
            self._known.update(scopes)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(sql.LOCK_CALL, "/".join(map(str, key)))
            tries = await connection.fetch(sql.TRIES, *key)
            left = [Reservation(key, one["try"], tuple(one["scopes"])) for one in tries if one["state"] == "reserved"]
            if left:
                every = {*scopes, *(scope for one in left for scope in one.scopes)}
                await connection.fetch(sql.LOCK_ACCOUNTS, sorted(every))
            for one in left:
                await self._close_locked(connection, one, "presumed", None)
            accounts = await self._accounts(connection, budgets, scopes, approved)
            verdict = decide(accounts, wanted, unpriced_fits=self._unpriced_fits)
            await self._mark(connection, verdict)
            if not isinstance(verdict, Fits):
                return verdict, None
            number = 1 + max((one["try"] for one in tries), default=0)
            held = Reservation(key, number, tuple(scopes))
            most = wanted.most
            await connection.execute(
                sql.OPEN_ENTRY,
                *held.row,
                step.attempt,
                step.workspace,
                step.workflow_id,
                *model,
                scopes,
                most.cost_usd,
                most.tokens,
                LEASE_S,
            )
            await connection.execute(sql.RESERVE, scopes, most.cost_usd or 0, most.tokens)
        self._held[held.row] = attempt.ends_at + LATE_S
        return verdict, held

    async def _renew(self) -> None:
        """Keep what is held by calls that are under way; an attempt that has ended holds nothing."""
        now = self._clock()
        self._held = {row: until for row, until in self._held.items() if until > now}
        if self._held:
            await self._pool.execute(sql.RENEW, *map(list, zip(*self._held, strict=True)), LEASE_S)

    @staticmethod
    async def _accounts(
        connection: Session, budgets: Sequence[Budget], scopes: Sequence[str], approved: frozenset[str]
    ) -> list[Account]:
        """Read accounts that are locked, and raise those that people allowed once more."""
        records = {one["scope"]: one for one in await connection.fetch(sql.LOCK_ACCOUNTS, scopes)}
        accounts = []
        for budget in budgets:
            record = records[budget.scope]
            account = Account(
                budget,
                Amount(record["spent_usd"], record["spent_tokens"], record["spent_calls"]),
                Amount(record["reserved_usd"], record["reserved_tokens"], record["reserved_calls"]),
                record["raises"],
                record["breached_at"] is not None,
            )
            raised = account.raised(approved)
            if raised.raises != account.raises:
                await connection.execute(sql.RAISE, budget.scope, raised.raises)
            accounts.append(raised)
        return accounts

    @staticmethod
    async def _mark(connection: Session, verdict: Verdict) -> None:
        """Record that budgets were broken; those that only tell are told of once."""
        match verdict:
            case Fits(alerts):
                broken = [one.budget.scope for one in alerts if not one.is_breached]
            case Breach(account):
                broken = [account.budget.scope]
            case Busy():
                broken = []
        if broken:
            await connection.execute(sql.BREACHED, broken)

    async def _close(self, reservation: Reservation, state: State, used: Amount | None) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.fetch(sql.LOCK_ACCOUNTS, sorted(reservation.scopes))
            await self._close_locked(connection, reservation, state, used)

    @staticmethod
    async def _close_locked(connection: Session, reservation: Reservation, state: State, used: Amount | None) -> None:
        record = await connection.fetchrow(sql.LOCK_ENTRY, *reservation.row)
        if record is None:  # forgotten, long after
            return
        changed = closed(Entry(record["state"], record["cost_usd"], record["tokens"]), state, used)
        if changed is None:
            return
        entry, shift = changed
        await connection.execute(sql.CLOSE_ENTRY, *reservation.row, *entry)
        freed, spent = shift
        await connection.execute(
            sql.CHANGE_ACCOUNTS,
            list(reservation.scopes),
            freed.cost_usd,
            freed.tokens,
            freed.calls,
            spent.cost_usd,
            spent.tokens,
            spent.calls,
        )

    @staticmethod
    async def _patiently(write: Callable[[], Coroutine[Any, Any, None]]) -> None:
        for _ in range(CLOSE_TRIES_MAX):
            try:
                await write()
            except Exception as error:  # noqa: BLE001  asyncpg has many, and none of them is the step's
                log.warning("the ledger's database: %s: %s", type(error).__name__, error)
                if not is_unavailable(error):
                    return
                await asyncio.sleep(CLOSE_PAUSE_S)
            else:
                return

    async def _read_on(self) -> None:
        while True:
            await asyncio.sleep(REREAD_S)
            try:
                await self.read()
            except Exception as error:  # noqa: BLE001  what is known holds on
                log.warning("the ledger's database: %s: %s", type(error).__name__, error)
