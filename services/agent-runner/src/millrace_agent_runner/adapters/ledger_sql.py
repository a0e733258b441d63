"""Every SQL statement of the ledger. Accounts are always locked before entries, and in the order of their names."""

# ruff: noqa: S608  statements are put together from our own schema's name only

from __future__ import annotations

from millrace_agent_runner.adapters.database import SCHEMA

READ_BUDGETS = f"""
SELECT workspace, workflow_id, period, max_cost_usd, max_tokens, max_calls, on_breach FROM {SCHEMA}.budgets
"""

READ_PRICES = f"""
SELECT provider, model, input_per_million, output_per_million, cached_per_million, version FROM {SCHEMA}.prices
"""

_KEY = "execution_id = $1 AND step = $2 AND item = $3 AND iteration = $4 AND call = $5"

LOCK_CALL = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
"""Two runners that have the same call, as in a takeover, number its tries one after the other."""
TRIES = f"SELECT try, state, scopes FROM {SCHEMA}.entries WHERE {_KEY} ORDER BY try"

ENSURE_ACCOUNTS = f"""
INSERT INTO {SCHEMA}.accounts (scope) SELECT scope FROM unnest($1::text[]) AS scope ORDER BY scope
ON CONFLICT DO NOTHING
"""

LOCK_ACCOUNTS = f"""
SELECT scope, spent_usd, spent_tokens, spent_calls, reserved_usd, reserved_tokens, reserved_calls, raises, breached_at
FROM {SCHEMA}.accounts WHERE scope = ANY($1::text[]) ORDER BY scope FOR UPDATE
"""

OPEN_ENTRY = f"""
INSERT INTO {SCHEMA}.entries (execution_id, step, item, iteration, call, try, attempt, workspace, workflow_id,
    provider, model, scopes, state, cost_usd, tokens, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'reserved', $13, $14,
    clock_timestamp() + $15::float8 * interval '1 second')
"""

RESERVE = f"""
UPDATE {SCHEMA}.accounts SET reserved_usd = reserved_usd + $2, reserved_tokens = reserved_tokens + $3,
    reserved_calls = reserved_calls + 1, updated_at = now()
WHERE scope = ANY($1::text[])
"""

RAISE = f"UPDATE {SCHEMA}.accounts SET raises = $2, updated_at = now() WHERE scope = $1"

BREACHED = f"UPDATE {SCHEMA}.accounts SET breached_at = coalesce(breached_at, now()) WHERE scope = ANY($1::text[])"

LOCK_ENTRY = f"SELECT state, cost_usd, tokens, scopes FROM {SCHEMA}.entries WHERE {_KEY} AND try = $6 FOR UPDATE"

CLOSE_ENTRY = f"""
UPDATE {SCHEMA}.entries SET state = $7, cost_usd = $8, tokens = $9, closed_at = clock_timestamp()
WHERE {_KEY} AND try = $6
"""

CHANGE_ACCOUNTS = f"""
UPDATE {SCHEMA}.accounts SET
    reserved_usd = reserved_usd - $2, reserved_tokens = reserved_tokens - $3, reserved_calls = reserved_calls - $4,
    spent_usd = spent_usd + $5, spent_tokens = spent_tokens + $6, spent_calls = spent_calls + $7, updated_at = now()
WHERE scope = ANY($1::text[])
"""

RENEW = f"""
UPDATE {SCHEMA}.entries AS e SET expires_at = clock_timestamp() + $7::float8 * interval '1 second'
FROM unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::integer[], $6::integer[])
    AS held (execution_id, step, item, iteration, call, try)
WHERE e.state = 'reserved' AND e.execution_id = held.execution_id AND e.step = held.step AND e.item = held.item
    AND e.iteration = held.iteration AND e.call = held.call AND e.try = held.try
"""

EXPIRED = f"""
SELECT execution_id, step, item, iteration, call, try, scopes FROM {SCHEMA}.entries
WHERE state = 'reserved' AND expires_at < clock_timestamp() ORDER BY expires_at LIMIT $1
"""

FORGET_ENTRIES = f"""
DELETE FROM {SCHEMA}.entries WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {SCHEMA}.entries
    WHERE reserved_at < now() - $1::integer * interval '1 day' AND state <> 'reserved' LIMIT $2))
"""

FORGET_ACCOUNTS = f"""
DELETE FROM {SCHEMA}.accounts WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {SCHEMA}.accounts
    WHERE updated_at < now() - $1::integer * interval '1 day' AND reserved_calls = 0 LIMIT $2))
"""
