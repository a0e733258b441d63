"""Every statement on triggers. `$1` is the workspace wherever a workspace is involved."""

# ruff: noqa: S608  what is put together here are the constants below, never a value

_COLUMNS = """t.id, t.workspace, t.spec, t.secret, t.token_hint, t.scheduled_from, t.created_at, t.updated_at,
    t.created_by, n.fired, n.repeated, n.filtered, n.failed, n.missed, n.last_fired_at, n.last_scheduled_at,
    n.last_execution_id, n.last_error, n.last_error_at"""
_FROM = "config.triggers t LEFT JOIN config.trigger_tallies n ON n.trigger_id = t.id"
_REF = "t.workspace = $1 AND (t.id = $2 OR t.name = $2) ORDER BY t.id = $2 DESC LIMIT 1"

FIND = f"SELECT {_COLUMNS} FROM {_FROM} WHERE {_REF}"

LOCK = f"SELECT {_COLUMNS} FROM {_FROM} WHERE {_REF} FOR UPDATE OF t"

LIST = f"""
SELECT {_COLUMNS} FROM {_FROM}
WHERE t.workspace = $1 AND ($2::text IS NULL OR t.kind = $2) AND ($3::text IS NULL OR t.name = $3)
  AND ($4::timestamptz IS NULL OR (t.created_at, t.id) < ($4, $5))
ORDER BY t.created_at DESC, t.id DESC
LIMIT $6 OFFSET $7"""

COUNT = """
SELECT count(*) FROM config.triggers
WHERE workspace = $1 AND ($2::text IS NULL OR kind = $2) AND ($3::text IS NULL OR name = $3)"""

INSERT = """
INSERT INTO config.triggers
    (workspace, id, name, kind, enabled, spec, event_name, secret, token_hash, token_hint, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (workspace, name) DO NOTHING
RETURNING id"""

TAKEN = "SELECT id FROM config.triggers WHERE workspace = $1 AND name = $2 AND id <> $3"

UPDATE = """
UPDATE config.triggers SET name = $2, enabled = $3, spec = $4, event_name = $5, secret = $6, updated_at = now(),
    scheduled_from = CASE WHEN $7 THEN now() ELSE scheduled_from END
WHERE id = $1"""

RENEW = "UPDATE config.triggers SET token_hash = $2, token_hint = $3, updated_at = now() WHERE id = $1"

DELETE = "DELETE FROM config.triggers WHERE id = $1"

OF_EVENT = f"""
SELECT {_COLUMNS} FROM {_FROM} WHERE t.enabled AND t.kind = 'event' AND t.workspace = $1 AND t.event_name = $2
ORDER BY t.id"""

OF_TOKEN = f"SELECT {_COLUMNS} FROM {_FROM} WHERE t.enabled AND t.kind = 'webhook' AND t.token_hash = $1"

OF_ALERTS = f"SELECT {_COLUMNS} FROM {_FROM} WHERE t.enabled AND t.kind = 'alert' AND t.workspace = $1 ORDER BY t.id"

SCHEDULED = f"SELECT {_COLUMNS} FROM {_FROM} WHERE t.enabled AND t.kind = 'cron' ORDER BY t.id"

HOLD_STILL = "LOCK TABLE config.triggers IN SHARE ROW EXCLUSIVE MODE"
"""Waits for saves under way, and keeps others waiting until the end of the transaction. Counting goes on."""

TALLY = """
INSERT INTO config.trigger_tallies AS n (trigger_id, fired, repeated, filtered, failed, missed,
    last_fired_at, last_scheduled_at, last_execution_id, last_error, last_error_at)
SELECT t.id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 FROM config.triggers t WHERE t.id = $1 FOR KEY SHARE
ON CONFLICT (trigger_id) DO UPDATE SET
    fired = n.fired + excluded.fired,
    repeated = n.repeated + excluded.repeated,
    filtered = n.filtered + excluded.filtered,
    failed = n.failed + excluded.failed,
    missed = n.missed + excluded.missed,
    last_fired_at = greatest(n.last_fired_at, excluded.last_fired_at),
    last_scheduled_at = greatest(n.last_scheduled_at, excluded.last_scheduled_at),
    last_execution_id = coalesce(excluded.last_execution_id, n.last_execution_id),
    last_error = coalesce(excluded.last_error, n.last_error),
    last_error_at = greatest(n.last_error_at, excluded.last_error_at)"""
"""Adds to what was counted. A trigger that is gone is counted no more."""
