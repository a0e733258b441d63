"""The metrics of a workflow, from the aggregates of its executions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DURATIONS = ("average_duration_seconds", "min_duration_seconds", "max_duration_seconds")
_PERCENTILES = ("p50_duration_seconds", "p95_duration_seconds", "p99_duration_seconds")


def measures(row: Mapping[str, Any], failures: Mapping[str, int]) -> dict[str, Any]:
    """Return the body of `GET /workflows/{id}/metrics`.

    Args:
        row: the aggregates; empty when nothing is projected.
        failures: failed executions by error category.
    """
    successful = row.get("successful_executions") or 0
    failed = row.get("failed_executions") or 0
    judged = successful + failed  # a cancelled or running execution is neither a success nor a failure
    percentiles = row.get("percentiles") or (None, None, None)
    return {
        "total_executions": row.get("total_executions") or 0,
        "successful_executions": successful,
        "failed_executions": failed,
        "success_rate": round(100 * successful / judged, 4) if judged else None,
        "total_duration_seconds": _rounded(row.get("total_duration_seconds") or 0.0),
        **{name: _rounded(row.get(name)) for name in _DURATIONS},
        **{name: _rounded(value) for name, value in zip(_PERCENTILES, percentiles, strict=True)},
        "tokens_used": int(row.get("tokens_used") or 0),
        "cost_usd": float(row.get("cost_usd") or 0),
        "failures_by_category": dict(failures),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(float(seconds), 6)
