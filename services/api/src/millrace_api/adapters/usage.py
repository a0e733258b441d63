"""Adds up calls to models. Each call is one row, whatever retried or called its execution, so none is counted twice."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from millrace_api.adapters.projection_reader import NOT_THERE_YET
from millrace_shared.postgres import Pool

GROUPS_MAX = 10_000

Group = Literal["day", "month", "provider", "model", "workflow", "workspace", "outcome"]

_GROUPS: dict[Group, dict[str, str]] = {
    "day": {"day": "to_char(c.at AT TIME ZONE 'UTC', 'YYYY-MM-DD')"},
    "month": {"month": "to_char(c.at AT TIME ZONE 'UTC', 'YYYY-MM')"},
    "provider": {"provider": "c.provider"},
    "model": {"provider": "c.provider", "model": "c.model"},
    "workflow": {
        "workflow_id": "c.workflow_id",
        "workflow": "(SELECT w.name FROM config.workflows AS w WHERE w.id = c.workflow_id)",
    },
    "workspace": {"workspace": "c.workspace"},
    "outcome": {"outcome": "coalesce(c.error_category, 'ok')"},
}
"""The columns of each way to group."""

_SUMS = """count(*) AS calls, count(*) FILTER (WHERE c.error_category IS NOT NULL) AS failed_calls,
    coalesce(sum(c.input_tokens), 0)::bigint AS input_tokens,
    coalesce(sum(c.output_tokens), 0)::bigint AS output_tokens,
    coalesce(sum(c.cached_tokens), 0)::bigint AS cached_tokens,
    coalesce(sum(c.reasoning_tokens), 0)::bigint AS reasoning_tokens,
    coalesce(sum(c.cost_usd), 0) AS cost_usd, count(*) FILTER (WHERE c.cost_usd IS NULL) AS unpriced_calls,
    coalesce(avg(c.duration_s), 0) AS average_duration_seconds,
    avg(c.time_to_first_token_s) AS average_time_to_first_token_seconds"""


class UsageReader:
    """Queries the calls of one workspace, or, for the operator, of all."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def read(
        self,
        workspace: str | None,
        groups: Sequence[Group],
        since: datetime,
        until: datetime,
        workflow_id: str | None,
    ) -> list[dict[str, Any]]:
        """Return what calls made in [since, until) used, by these groups, at most `GROUPS_MAX` rows.

        Args:
            workspace: whose; None is all.
            groups: how to group; without any there is one row.
            since: the first moment.
            until: the moment after the last.
            workflow_id: of this workflow only; None is all.
        """
        columns = {name: column for group in groups for name, column in _GROUPS[group].items()}
        selected = "".join(f"{column} AS {name}, " for name, column in columns.items())
        grouping = ", ".join(str(position) for position in range(1, len(columns) + 1))
        query = f"""
            SELECT {selected}{_SUMS} FROM telemetry.llm_calls AS c
            WHERE ($1::text IS NULL OR c.workspace = $1) AND c.at >= $2 AND c.at < $3
                AND ($4::text IS NULL OR c.workflow_id = $4)
            {f"GROUP BY {grouping} ORDER BY {grouping}" if columns else ""} LIMIT {GROUPS_MAX:d}"""  # noqa: S608
        try:
            return [dict(row) for row in await self._pool.fetch(query, workspace, since, until, workflow_id)]
        except NOT_THERE_YET:
            return []
