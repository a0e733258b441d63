"""Every statement on the `telemetry` schema. It belongs to the telemetry service: the api only reads it."""

EXECUTION = "SELECT * FROM telemetry.executions WHERE id = $1 AND workspace = $2"

STEPS = "SELECT * FROM telemetry.steps_now WHERE execution_id = $1 AND item = -1 ORDER BY step_order"

STEP = "SELECT * FROM telemetry.steps_now WHERE execution_id = $1 AND step = $2 AND item = $3"

ITEMS = """
SELECT execution_id, step, item, status, retry_count, error, started_at, completed_at
FROM telemetry.steps_now WHERE execution_id = $1 AND step = $2 AND item >= 0 ORDER BY item"""

# A list shows no inputs, results or steps: those are one request away, and a page of them could be gigabytes.
_LIST_COLUMNS = """id, workflow_id, workflow_name, workflow_version, execution_number, execution_name, status, priority,
    labels, error, tokens_used, cost_usd, unpriced_results, trace_id,
    created_at, started_at, completed_at, updated_at"""

METRICS = """
SELECT
    count(*) AS total_executions,
    count(*) FILTER (WHERE status = 'completed') AS successful_executions,
    count(*) FILTER (WHERE status IN ('failed', 'timeout')) AS failed_executions,
    coalesce(sum(seconds), 0) AS total_duration_seconds,
    avg(seconds) AS average_duration_seconds,
    min(seconds) AS min_duration_seconds,
    max(seconds) AS max_duration_seconds,
    percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY seconds) AS percentiles,
    coalesce(sum(tokens_used), 0) AS tokens_used,
    coalesce(sum(cost_usd), 0) AS cost_usd
FROM (
    SELECT status, tokens_used, cost_usd,
        extract(epoch FROM completed_at - started_at)::double precision AS seconds
    FROM telemetry.executions
    WHERE workspace = $1 AND workflow_id = $2
      AND ($3::timestamptz IS NULL OR created_at >= $3)
      AND ($4::timestamptz IS NULL OR created_at < $4)
) AS chosen"""

FAILURES = """
SELECT coalesce(error_category, 'unknown') AS category, count(*) AS failures
FROM telemetry.executions
WHERE workspace = $1 AND workflow_id = $2 AND status IN ('failed', 'timeout')
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
