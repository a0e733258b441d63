"""Rate limits of models, which the agent runners keep and read anew every few seconds.

The table is the runners' (schema `spend`), with their migrations; this is the one place that writes it for people.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from millrace_api.errors import Refused, Unavailable
from millrace_shared.postgres import Pool

LIMITS_MAX = 1_000

_COLUMNS = "workspace, provider, model, requests_per_minute, tokens_per_minute, updated_at, updated_by"

LIST = f"""
SELECT {_COLUMNS} FROM spend.rate_limits ORDER BY provider, model, workspace LIMIT $1 OFFSET $2"""  # noqa: S608

COUNT = "SELECT count(*) FROM spend.rate_limits"

SAVE = f"""
INSERT INTO spend.rate_limits ({_COLUMNS})
SELECT $1, $2, $3, $4, $5, now(), $6
WHERE (SELECT count(*) FROM spend.rate_limits WHERE (workspace, provider, model) <> ($1, $2, $3)) < $7
ON CONFLICT (workspace, provider, model) DO UPDATE SET requests_per_minute = EXCLUDED.requests_per_minute,
    tokens_per_minute = EXCLUDED.tokens_per_minute, updated_at = now(), updated_by = EXCLUDED.updated_by
RETURNING {_COLUMNS}"""  # noqa: S608  what is put together here is the constant above, never a value

DELETE = "DELETE FROM spend.rate_limits WHERE workspace = $1 AND provider = $2 AND model = $3 RETURNING 1"


class RateLimit(msgspec.Struct, frozen=True):
    """What a workspace may ask of a model in any minute; `*` is all of them together."""

    provider: str
    model: str
    workspace: str
    requests_per_minute: int | None
    tokens_per_minute: int | None


class RateLimits:
    """Saves and lists rate limits."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(self, limit: int, skip: int) -> tuple[list[dict[str, Any]], int]:
        """Return limits, by provider, model and workspace, and how many there are.

        Raises:
            Unavailable: no agent runner has made the table yet.
        """
        async with self._table():
            records = await self._pool.fetch(LIST, limit, skip)
            return [dict(record) for record in records], await self._pool.fetchval(COUNT)

    async def save(self, wanted: RateLimit, by: str) -> dict[str, Any]:
        """Save a limit in the place of the one with the same workspace, provider and model.

        Raises:
            Refused: `too_many_rate_limits`.
            Unavailable: no agent runner has made the table yet.
        """
        key = (wanted.workspace, wanted.provider, wanted.model)
        bounds = (wanted.requests_per_minute, wanted.tokens_per_minute)
        async with self._table():
            saved = await self._pool.fetchrow(SAVE, *key, *bounds, by, LIMITS_MAX)
        if saved is None:
            raise Refused("too_many_rate_limits", f"there are {LIMITS_MAX} rate limits, the most that are kept")
        return dict(saved)

    async def delete(self, workspace: str, provider: str, model: str) -> None:
        """Remove a limit.

        Raises:
            Refused: `rate_limit_not_found`.
            Unavailable: no agent runner has made the table yet.
        """
        async with self._table():
            removed = await self._pool.fetchval(DELETE, workspace, provider, model)
        if not removed:
            of = f"provider {provider}, model {model} and workspace {workspace}"
            raise Refused("rate_limit_not_found", f"there is no rate limit of {of}; GET /rate-limits lists them")

    @staticmethod
    @asynccontextmanager
    async def _table() -> AsyncIterator[None]:
        try:
            yield
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
            detail = "no agent runner with MILLRACE_DATABASE_URL has started yet, and runners keep the rate limits"
            raise Unavailable("rate_limits_unavailable", detail) from error
