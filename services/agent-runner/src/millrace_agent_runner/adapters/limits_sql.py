"""Every SQL statement of the rate limits. Times are Unix seconds of the database's clock."""

# ruff: noqa: S608  statements are put together from our own schema's name only

from __future__ import annotations

from millrace_agent_runner.adapters.database import SCHEMA

NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"

READ_LIMITS = f"""
SELECT workspace, provider, model, requests_per_minute, tokens_per_minute FROM {SCHEMA}.rate_limits
"""

READ_LEARNED = f"SELECT provider, model, input_ratio, output_tokens FROM {SCHEMA}.estimates"

READ_BLOCKS = f"""
SELECT provider, model, blocked_until - extract(epoch FROM clock_timestamp())::float8 AS remaining_s
FROM {SCHEMA}.blocks WHERE blocked_until > extract(epoch FROM clock_timestamp())::float8
"""

ENSURE_BUCKETS = f"""
INSERT INTO {SCHEMA}.buckets (bucket) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING
"""

LOCK_BUCKETS = f"""
SELECT bucket, paced_to, newest, used FROM {SCHEMA}.buckets WHERE bucket = ANY($1::text[]) ORDER BY bucket FOR UPDATE
"""

READ_LINES = f"""
WITH own AS (SELECT place FROM {SCHEMA}.waiting WHERE conversation = $1),
     clock AS (SELECT extract(epoch FROM clock_timestamp())::float8 AS now)
SELECT clock.now,
       EXISTS (SELECT FROM own) AS is_waiting,
       COALESCE((SELECT blocked_until FROM {SCHEMA}.blocks WHERE provider = $3 AND model = $4), 0) AS blocked_until,
       named.bucket,
       (SELECT COALESCE(sum(units), 0)::bigint FROM {SCHEMA}.waiting AS w
        WHERE w.bucket = named.bucket AND w.returns_at > clock.now - $5::float8
          AND w.place < COALESCE((SELECT place FROM own), 9223372036854775807)) AS ahead
FROM clock, unnest($2::text[]) AS named (bucket)
"""

WRITE_BUCKET = f"""
UPDATE {SCHEMA}.buckets SET paced_to = $2, newest = $3, used = $4 WHERE bucket = $1
"""

STAND_IN_LINE = f"""
INSERT INTO {SCHEMA}.waiting (conversation, bucket, units, returns_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (conversation) DO UPDATE
SET bucket = EXCLUDED.bucket, units = EXCLUDED.units, returns_at = EXCLUDED.returns_at
"""

LEAVE_LINE = f"DELETE FROM {SCHEMA}.waiting WHERE conversation = $1"

FORGET_WAITING = f"""
DELETE FROM {SCHEMA}.waiting WHERE returns_at < extract(epoch FROM clock_timestamp())::float8 - $1::float8
"""

BLOCK = f"""
INSERT INTO {SCHEMA}.blocks AS b (provider, model, blocked_until)
VALUES ($1, $2, extract(epoch FROM clock_timestamp())::float8 + $3::float8)
ON CONFLICT (provider, model) DO UPDATE SET blocked_until = greatest(b.blocked_until, EXCLUDED.blocked_until)
"""

LEARN = f"""
INSERT INTO {SCHEMA}.estimates (provider, model, input_ratio, output_tokens) VALUES ($1, $2, $3, $4)
ON CONFLICT (provider, model) DO UPDATE
SET input_ratio = EXCLUDED.input_ratio, output_tokens = EXCLUDED.output_tokens
"""
