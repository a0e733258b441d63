"""Budgets of workspaces and workflows, and what is used of them. The agent runners keep both.

The tables are the runners' (schema `spend`), with their migrations; this is the one place that writes budgets for
people. Runners read them anew every few seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Literal

import asyncpg
import msgspec

from millrace_api.errors import Refused, Unavailable
from millrace_shared.messages import BreachAction
from millrace_shared.postgres import Pool

ANY = "*"
BUDGETS_MAX = 1_000
"""Of one workspace."""

Period = Literal["day", "month"]

_ACCOUNT = """b.period || ':' || to_char(now() AT TIME ZONE 'UTC',
    CASE b.period WHEN 'day' THEN 'YYYY-MM-DD' ELSE 'YYYY-MM' END) || ':' || b.workspace || ':' || b.workflow_id"""
"""The name of the account of today, or of this month."""

LIST = f"""
SELECT b.workflow_id, w.name AS workflow_name, b.period, b.max_cost_usd, b.max_tokens, b.max_calls, b.on_breach,
    b.updated_at, b.updated_by, a.breached_at, coalesce(a.raises, 0) AS raises,
    coalesce(a.spent_usd, 0) AS spent_usd, coalesce(a.spent_tokens, 0) AS spent_tokens,
    coalesce(a.spent_calls, 0) AS spent_calls, coalesce(a.reserved_usd, 0) AS reserved_usd,
    coalesce(a.reserved_tokens, 0) AS reserved_tokens, coalesce(a.reserved_calls, 0) AS reserved_calls
FROM spend.budgets AS b
LEFT JOIN spend.accounts AS a ON a.scope = {_ACCOUNT}
LEFT JOIN config.workflows AS w ON w.id = b.workflow_id AND w.workspace = b.workspace
WHERE b.workspace = $1 AND ($2::text IS NULL OR b.workflow_id = $2) AND ($3::text IS NULL OR b.period = $3)
ORDER BY b.workflow_id, b.period LIMIT $4 OFFSET $5"""  # noqa: S608

COUNT = "SELECT count(*) FROM spend.budgets WHERE workspace = $1"

SAVE = """
INSERT INTO spend.budgets (workspace, workflow_id, period, max_cost_usd, max_tokens, max_calls, on_breach, updated_at,
    updated_by)
SELECT $1, $2, $3, $4, $5, $6, $7, now(), $8
WHERE (SELECT count(*) FROM spend.budgets WHERE workspace = $1 AND (workflow_id, period) <> ($2, $3)) < $9
ON CONFLICT (workspace, workflow_id, period) DO UPDATE SET max_cost_usd = EXCLUDED.max_cost_usd,
    max_tokens = EXCLUDED.max_tokens, max_calls = EXCLUDED.max_calls, on_breach = EXCLUDED.on_breach,
    updated_at = now(), updated_by = EXCLUDED.updated_by
RETURNING 1"""

DELETE = "DELETE FROM spend.budgets WHERE workspace = $1 AND workflow_id = $2 AND period = $3 RETURNING 1"


class Bounds(msgspec.Struct, frozen=True):
    """What may be used in each day or month, and what happens when a call does not fit."""

    max_cost_usd: Decimal | None
    max_tokens: int | None
    max_calls: int | None
    on_breach: BreachAction


class Budgets:
    """Saves and lists budgets. `workflow_id` is `*` for those of a whole workspace."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, workspace: str, limit: int, skip: int) -> tuple[list[dict[str, Any]], int]:
        """Return budgets with what is used of them now, and how many there are.

        Raises:
            Unavailable: no agent runner has made the tables yet.
        """
        async with self._tables():
            records = await self._pool.fetch(LIST, workspace, None, None, limit, skip)
            return [dict(record) for record in records], await self._pool.fetchval(COUNT, workspace)

    async def save(self, workspace: str, workflow_id: str, period: Period, bounds: Bounds, by: str) -> dict[str, Any]:
        """Save a budget in the place of the one of the same workflow and period. What is used of it stays used.

        Raises:
            Refused: `too_many_budgets`.
            Unavailable: no agent runner has made the tables yet.
        """
        values = (bounds.max_cost_usd, bounds.max_tokens, bounds.max_calls, bounds.on_breach)
        async with self._tables(), self._pool.acquire() as database, database.transaction():
            if not await database.fetchval(SAVE, workspace, workflow_id, period, *values, by, BUDGETS_MAX):
                detail = f"there are {BUDGETS_MAX} budgets in this workspace, the most that are kept"
                raise Refused("too_many_budgets", detail)
            [saved] = await database.fetch(LIST, workspace, workflow_id, period, 1, 0)
        return dict(saved)

    async def delete(self, workspace: str, workflow_id: str, period: Period) -> None:
        """Remove a budget.

        Raises:
            Refused: `budget_not_found`.
            Unavailable: no agent runner has made the tables yet.
        """
        async with self._tables():
            removed = await self._pool.fetchval(DELETE, workspace, workflow_id, period)
        if not removed:
            whose = "the workspace" if workflow_id == ANY else f"workflow {workflow_id}"
            raise Refused("budget_not_found", f"{whose} has no budget for a {period}; GET /budgets lists them")

    @staticmethod
    @asynccontextmanager
    async def _tables() -> AsyncIterator[None]:
        try:
            yield
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
            detail = "no agent runner with MILLRACE_DATABASE_URL has started yet, and runners keep the budgets"
            raise Unavailable("budgets_unavailable", detail) from error
