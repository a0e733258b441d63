"""Every SQL statement of the projection.

Rows go in as one array per column: a statement costs about the same for one row and for hundreds. Changes of one
table are grouped by the columns that they set, since a column that is not set must keep what it has; there are few
such groups, because events set fixed columns, and so few statements, which asyncpg prepares once.
"""

# ruff: noqa: S608  statements are put together from our own table and column names only

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from millrace_shared.codec import encode
from millrace_shared.execution.changes import Key, RowChange
from millrace_shared.execution.tables import TABLES, Rule, Table

SCHEMA = "telemetry"

READ_OFFSET = f"""
SELECT sequence, subject, EXISTS (SELECT FROM {SCHEMA}.kept_numbers) AS has_numbers
FROM {SCHEMA}.offsets WHERE stream = $1
"""

READ_VERSIONS = f"SELECT id, last_version FROM {SCHEMA}.executions WHERE id = ANY($1::text[])"

MOVE_OFFSET = f"""
UPDATE {SCHEMA}.offsets SET sequence = $3, subject = $4 WHERE stream = $1 AND sequence = $2
"""  # the fence: of two writers that read the same offset, the second updates no row

LEAD = "SELECT pg_try_advisory_lock(hashtext($1), hashtext($2))"

BEAT = "SELECT 1"
"""Whoever leads says something at least every second or so, whether there is anything to write or not."""

DEPOSE_SILENT = """
SELECT count(pg_terminate_backend(a.pid))
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.classid::bigint = hashtext($1)::bigint & x'ffffffff'::bigint
  AND l.objid::bigint = hashtext($2)::bigint & x'ffffffff'::bigint
  AND a.state <> 'active' AND a.state_change < clock_timestamp() - $3::interval
"""  # one whose statement takes long is not silent: then it is Postgres that works

COUNT_EXECUTIONS = f"""
INSERT INTO {SCHEMA}.execution_counters AS t (workspace, workflow_id, last_number)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
ON CONFLICT (workspace, workflow_id) DO UPDATE SET last_number = t.last_number + EXCLUDED.last_number
RETURNING workspace, workflow_id, last_number
"""

TAKE_NUMBERS = f"DELETE FROM {SCHEMA}.kept_numbers WHERE execution_id = ANY($1::text[]) RETURNING execution_id, number"

WRITE_ATTEMPT_STARTS = f"""
INSERT INTO {SCHEMA}.attempt_starts (execution_id, step, item, attempt, started_at, runner)
SELECT * FROM unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::timestamptz[], $6::text[])
ON CONFLICT (execution_id, step, item, attempt)
DO UPDATE SET started_at = EXCLUDED.started_at, runner = EXCLUDED.runner
"""

WRITE_LLM_CALLS = f"""
INSERT INTO {SCHEMA}.llm_calls (
    execution_id, step, item, attempt, sequence, at, workspace, workflow_id, provider, model, duration_s,
    input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd, price_version,
    time_to_first_token_s, finish_reason, error, error_category
)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::integer[], $4::integer[], $5::integer[], $6::timestamptz[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::float8[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
    $16::numeric[], $17::text[], $18::float8[], $19::text[], $20::json[], $21::text[]
)
ON CONFLICT DO NOTHING
"""

RESET_OFFSETS = f"UPDATE {SCHEMA}.offsets SET sequence = 0, subject = ''"
RESET_CHANNEL = f"{SCHEMA}_reset"
TELL_OF_RESET = f"NOTIFY {RESET_CHANNEL}"
"""Delivered when the reset commits: a writer that waits for messages would not notice its fence otherwise."""

ENDED = f"SELECT id FROM {SCHEMA}.executions WHERE final_status IS NOT NULL AND id > $1 ORDER BY id LIMIT $2"

MAKE_KEPT = 'CREATE TEMP TABLE IF NOT EXISTS kept (execution_id text COLLATE "C" PRIMARY KEY)'
KEEP = "INSERT INTO pg_temp.kept SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"
COUNT_KEPT = "SELECT count(*) FROM pg_temp.kept"
DROP_KEPT = "DROP TABLE pg_temp.kept"

_OF_EXECUTIONS = {**{name: table.key[0] for name, table in TABLES.items()}, "attempt_starts": "execution_id"}
"""Tables that the streams can give again, each with the column that names the execution. `llm_calls` stays as it is:
facts are kept for days only, rows for longer, and replaying the facts that are left repeats no row."""

KEEP_NUMBERS = f"""
INSERT INTO {SCHEMA}.kept_numbers (execution_id, number)
SELECT e.id, e.execution_number FROM {SCHEMA}.executions AS e
WHERE e.execution_number IS NOT NULL AND NOT EXISTS (SELECT FROM pg_temp.kept AS k WHERE k.execution_id = e.id)
ON CONFLICT (execution_id) DO NOTHING
"""
"""Those of rows that go. What a rebuild before this one put aside and has not taken back stays."""

TRUNCATE_PROJECTED = f"TRUNCATE {', '.join(f'{SCHEMA}.{name}' for name in _OF_EXECUTIONS)}"

DELETE_ALL_BUT_KEPT = (
    "ANALYZE pg_temp.kept",
    *(
        f"DELETE FROM {SCHEMA}.{name} AS t "
        f"WHERE NOT EXISTS (SELECT FROM pg_temp.kept AS k WHERE k.execution_id = t.{column})"
        for name, column in _OF_EXECUTIONS.items()
    ),
)

STATUS_COUNTS = {
    "executions": f"SELECT status, count(*) FROM {SCHEMA}.executions GROUP BY status ORDER BY status",
    "steps": f"SELECT status, count(*) FROM {SCHEMA}.steps WHERE item < 0 GROUP BY status ORDER BY status",
}
ROW_COUNTS = {name: f"SELECT count(*) FROM {SCHEMA}.{name}" for name in (*TABLES, "attempt_starts", "llm_calls")}


@lru_cache(maxsize=256)
def upsert(table: Table, columns: tuple[str, ...]) -> str:
    """Return the statement that writes rows with changes of `columns`.

    Its parameters are arrays: those of the key's columns, then those of `columns`.
    """
    names = (*table.key, *columns)
    arrays = ", ".join(f"${n}::{table.columns[name].type}[]" for n, name in enumerate(names, 1))
    return (
        f"INSERT INTO {SCHEMA}.{table.name} AS t ({', '.join(names)})\n"
        f"SELECT * FROM unnest({arrays})\n"
        f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET "
        + ", ".join(_UPDATES[table.columns[name].rule].format(name) for name in columns)
    )


_UPDATES: Mapping[Rule, str] = {
    "set": "{0} = EXCLUDED.{0}",
    "first": "{0} = coalesce(t.{0}, EXCLUDED.{0})",
    "add": "{0} = t.{0} + EXCLUDED.{0}",
}


def writes(table: Table, rows: Mapping[Key, RowChange]) -> Iterable[tuple[str, list[list[Any]]]]:
    """Yield (statement, arrays) for each group of `rows` that set the same columns.

    Sums and first values that no row of a group has are left out: encoding an array costs more than anything else
    here, by its elements.
    """
    groups: dict[frozenset[str], list[tuple[Key, RowChange]]] = {}
    for key, change in rows.items():
        groups.setdefault(frozenset(change.set), []).append((key, change))
    for set_columns, group in groups.items():
        changes = [change for _, change in group]
        columns: list[str] = []
        arrays: list[list[Any]] = [list(values) for values in zip(*(key for key, _ in group), strict=True)]
        for name in (name for name in table.columns if name in set_columns):
            values = [change.set[name] for change in changes]
            columns.append(name)
            arrays.append(_json(values) if table.columns[name].type in {"json", "jsonb"} else values)
        for name in _present(table, "first", (change.first for change in changes)):
            columns.append(name)
            arrays.append([change.first.get(name) for change in changes])
        for name in _present(table, "add", (change.add for change in changes)):
            columns.append(name)
            arrays.append([change.add.get(name, 0) for change in changes])
        yield upsert(table, tuple(columns)), arrays


def _present(table: Table, rule: Rule, values: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns of `rule` that any of `values` has, in the table's order."""
    present = set().union(*values)
    return [name for name in table.columns_of(rule) if name in present]


def _json(values: list[Any]) -> list[str | None]:
    return [None if value is None else encode(value).decode() for value in values]
