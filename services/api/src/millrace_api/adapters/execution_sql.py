"""Every statement on the `telemetry` schema. It belongs to the telemetry service: the api only reads it."""

EXECUTION = "SELECT * FROM telemetry.executions WHERE id = $1 AND workspace = $2"

STEPS = "SELECT * FROM telemetry.steps_now WHERE execution_id = $1 AND item = -1 ORDER BY step_order"

STEP = "SELECT * FROM telemetry.steps_now WHERE execution_id = $1 AND step = $2 AND item = $3"

ITEMS = """
SELECT execution_id, step, item, status, retry_count, error, started_at, completed_at,
    reason, wait_reason, wait_until, signal, child_id, cached, reused_from, scores
FROM telemetry.steps_now WHERE execution_id = $1 AND step = $2 AND item >= 0 ORDER BY item"""

ITEM_COUNTS = """
SELECT step, status, count(*) AS items
FROM telemetry.steps_now WHERE execution_id = $1 AND item >= 0 GROUP BY step, status"""

# Items that have not ended, without their values: what their execution waits for. A few of them say it all.
OPEN_ITEMS = """
SELECT execution_id, step, item, status, attempt, retry_count, error, error_category, runner, wait_until, wait_reason,
    signal, iteration, child_id, scheduled_at, started_at, updated_at
FROM telemetry.steps_now
WHERE execution_id = $1 AND item >= 0 AND status IN ('pending', 'queued', 'running', 'waiting')
ORDER BY step_order, item LIMIT $2"""

ATTEMPT_STARTS = """
SELECT step, item, attempt, started_at, runner FROM telemetry.attempt_starts
WHERE execution_id = $1 ORDER BY started_at DESC LIMIT $2"""

ATTEMPTS = """
SELECT attempt, status, started_at, finished_at, error, runner, tokens_used, cost_usd, llm_calls
FROM telemetry.attempts WHERE execution_id = $1 AND step = $2 AND item = $3 ORDER BY attempt LIMIT $4"""

TRANSITIONS = "SELECT version, at, events FROM telemetry.transitions WHERE execution_id = $1 ORDER BY version"

# A list shows no inputs, results or steps: those are one request away, and a page of them could be gigabytes.
_LIST_COLUMNS = """id, workflow_id, workflow_name, workflow_version, execution_number, execution_name, status, priority,
    labels, error, tokens_used, cost_usd, unpriced_results, trace_id,
    created_at, started_at, completed_at, updated_at, deadline_at,
    parent_id, parent_step, parent_item, root_id, depth, part, origin, held, paused, ending"""

# Groups and plans are parts of an execution that is counted. What a child used is in what its parent used, so of an
# execution below another one of the same workflow (`nested`) nothing is added up but its time.
METRICS = """
WITH RECURSIVE chosen AS (
    SELECT id, parent_id, status, tokens_used, cost_usd,
        extract(epoch FROM completed_at - started_at)::double precision AS seconds
    FROM telemetry.executions
    WHERE workspace = $1 AND workflow_id = $2 AND NOT inline
      AND ($3::timestamptz IS NULL OR created_at >= $3)
      AND ($4::timestamptz IS NULL OR created_at < $4)
),
ancestors (id, parent_id, is_same) AS (
    SELECT id, parent_id, false FROM chosen WHERE parent_id IS NOT NULL
    UNION
    SELECT below.id, above.parent_id, above.workflow_id = $2
    FROM ancestors AS below JOIN telemetry.executions AS above ON above.id = below.parent_id
    WHERE NOT below.is_same
),
nested AS (SELECT DISTINCT id FROM ancestors WHERE is_same)
SELECT
    count(*) AS total_executions,
    count(*) FILTER (WHERE status = 'completed') AS successful_executions,
    count(*) FILTER (WHERE status IN ('failed', 'timeout')) AS failed_executions,
    coalesce(sum(seconds), 0) AS total_duration_seconds,
    avg(seconds) AS average_duration_seconds,
    min(seconds) AS min_duration_seconds,
    max(seconds) AS max_duration_seconds,
    percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY seconds) AS percentiles,
    coalesce(sum(tokens_used) FILTER (WHERE nested.id IS NULL), 0) AS tokens_used,
    coalesce(sum(cost_usd) FILTER (WHERE nested.id IS NULL), 0) AS cost_usd
FROM chosen LEFT JOIN nested USING (id)"""

FAILURES = """
SELECT coalesce(error_category, 'unknown') AS category, count(*) AS failures
FROM telemetry.executions
WHERE workspace = $1 AND workflow_id = $2 AND NOT inline AND status IN ('failed', 'timeout')
  AND ($3::timestamptz IS NULL OR created_at >= $3)
  AND ($4::timestamptz IS NULL OR created_at < $4)
GROUP BY 1 ORDER BY 2 DESC, 1"""


def page(condition: str, order: str, limit: int, skip: int) -> str:
    """Return the statement of one page; `condition` and `order` come from `domain.filters`, and hold no values."""
    return (
        f"SELECT {_LIST_COLUMNS} FROM telemetry.executions WHERE {condition} "  # noqa: S608
        f"ORDER BY {order} LIMIT {limit:d} OFFSET {skip:d}"
    )


def count(condition: str) -> str:
    """Return the statement that counts what all pages hold."""
    return f"SELECT count(*) FROM telemetry.executions WHERE {condition}"  # noqa: S608
