"""Reads the projection: what telemetry has written of executions so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from millrace_api.adapters import execution_sql as sql
from millrace_api.domain.filters import ExecutionFilter, order_by, where
from millrace_api.domain.rendering import Row
from millrace_shared.messages import LOG_VERSION, Event, Transition
from millrace_shared.postgres import Pool

NOT_THERE_YET = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)
"""The telemetry service has not made its tables yet: nothing is projected."""


ATTEMPT_STARTS_MAX = 1_000
"""Attempts of one execution that are looked at when it is asked what runs: the last ones that were begun."""


class ProjectionReader:
    """Queries by workspace; what belongs to another one does not exist here."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def execution(self, workspace: str, execution_id: str) -> tuple[Row, list[Row]] | None:
        """Return an execution and its steps (not the items of a `for_each`), or None when it is not projected."""
        async with self._pool.acquire() as database:
            try:
                row = await database.fetchrow(sql.EXECUTION, execution_id, workspace)
                if row is None:
                    return None
                return dict(row), _rows(await database.fetch(sql.STEPS, execution_id))
            except NOT_THERE_YET:
                return None

    async def step(self, execution_id: str, step: str, item: int) -> Row | None:
        """Return one step, or one item of it. The caller has checked that the execution is the workspace's."""
        row = await self._pool.fetchrow(sql.STEP, execution_id, step, item)
        return None if row is None else dict(row)

    async def items(self, execution_id: str, step: str) -> list[Row]:
        """Return the items of a `for_each` step, without their values."""
        return _rows(await self._pool.fetch(sql.ITEMS, execution_id, step))

    async def item_counts(self, execution_id: str) -> dict[tuple[str, str], int]:
        """Return how many items of each `for_each` step have which status."""
        records = await self._pool.fetch(sql.ITEM_COUNTS, execution_id)
        return {(record["step"], record["status"]): record["items"] for record in records}

    async def open_items(self, execution_id: str, limit: int) -> list[Row]:
        """Return items that have not ended, without their values."""
        return _rows(await self._pool.fetch(sql.OPEN_ITEMS, execution_id, limit))

    async def attempt_starts(self, execution_id: str) -> dict[tuple[str, int, int], tuple[datetime, str]]:
        """Return when and where the attempts that were begun last began, by step, item and attempt."""
        records = await self._pool.fetch(sql.ATTEMPT_STARTS, execution_id, ATTEMPT_STARTS_MAX)
        return {(one["step"], one["item"], one["attempt"]): (one["started_at"], one["runner"]) for one in records}

    async def attempts(self, execution_id: str, step: str, item: int, limit: int) -> list[Row]:
        """Return the attempts of a step, or of one item of it, that have ended, oldest first."""
        return _rows(await self._pool.fetch(sql.ATTEMPTS, execution_id, step, item, limit))

    async def transitions(self, execution_id: str) -> list[Transition]:
        """Return the copy of an execution's log, in order; empty when there is none."""
        try:
            rows = await self._pool.fetch(sql.TRANSITIONS, execution_id)
        except NOT_THERE_YET:
            return []
        return [
            Transition(LOG_VERSION, execution_id, row["version"], row["at"].timestamp(), _events(row["events"]))
            for row in rows
        ]

    async def page(self, workspace: str, chosen: ExecutionFilter, limit: int, skip: int) -> tuple[list[Row], int]:
        """Return the executions of a page, and how many there are on all pages."""
        condition, values = where(workspace, chosen)
        total_condition, total_values = where(workspace, chosen, paged=False)
        query = sql.page(condition, order_by(chosen), limit, skip)
        async with self._pool.acquire() as database:
            try:
                rows = _rows(await database.fetch(query, *values))
                if skip == 0 and chosen.after is None and len(rows) < limit:
                    return rows, len(rows)
                total = await database.fetchval(sql.count(total_condition), *total_values)
            except NOT_THERE_YET:
                return [], 0
        return rows, total

    async def metrics(
        self, workspace: str, workflow_id: str, since: datetime | None, until: datetime | None
    ) -> tuple[Mapping[str, Any], dict[str, int]]:
        """Return the aggregates of a workflow's executions created in [since, until), and its failures by category."""
        scope = (workspace, workflow_id, since, until)
        async with self._pool.acquire() as database:
            try:
                row = await database.fetchrow(sql.METRICS, *scope)
                failures = await database.fetch(sql.FAILURES, *scope)
            except NOT_THERE_YET:
                return {}, {}
        return dict(row or {}), {failure["category"]: failure["failures"] for failure in failures}


def _events(document: Any) -> tuple[Event, ...]:
    return msgspec.convert(document, tuple[Event, ...], str_keys=True)


def _rows(records: Sequence[asyncpg.Record]) -> list[Row]:
    return [dict(record) for record in records]
