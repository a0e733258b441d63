"""Two executions side by side: what differs in what they were given, what they did, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from millrace_api.domain.problems import excerpt
from millrace_api.domain.rendering import Row, cost, duration_s, in_order, value
from millrace_shared.definition.model import WorkflowDefinition

DIFFERENCES_MAX = 100
"""Differences of one pair of values that are listed."""

_ABSENT: Any = object()


def compare(
    a: tuple[Row, Iterable[Row], WorkflowDefinition | None], b: tuple[Row, Iterable[Row], WorkflowDefinition | None]
) -> dict[str, Any]:
    """Return the body of `GET /executions/{a}/compare/{b}`.

    Args:
        a: the row, the steps and the definition of one execution.
        b: those of the other.
    """
    row_a, row_b = a[0], b[0]
    steps_a, steps_b = ({step["step"]: step for step in in_order(*one)} for one in (a, b))
    order = dict.fromkeys([*steps_a, *steps_b])
    return {
        "a": _summary(row_a),
        "b": _summary(row_b),
        "same_workflow": row_a["workflow_id"] == row_b["workflow_id"],
        "same_definition": (row_a["definition"], row_a.get("part")) == (row_b["definition"], row_b.get("part")),
        "same_input": _same(row_a.get("input"), row_b.get("input")),
        "same_results": _same(row_a.get("output"), row_b.get("output")),
        "input_differences": differences(value(row_a.get("input")), value(row_b.get("input"))),
        "result_differences": differences(value(row_a.get("output")), value(row_b.get("output"))),
        "steps": [_step(step_id, steps_a.get(step_id), steps_b.get(step_id)) for step_id in order],
    }


def differences(a: Any, b: Any) -> list[dict[str, Any]]:
    """Return where two JSON values differ, at most `DIFFERENCES_MAX` places: `{"path", "kind", "a", "b"}`.

    `path` is a JSON pointer; `kind` is `changed`, `added` (in b alone) or `removed` (in a alone). Long values are cut.
    """
    found: list[dict[str, Any]] = []
    waiting = [("", a, b)]
    while waiting and len(found) < DIFFERENCES_MAX:
        path, one, other = waiting.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            names = dict.fromkeys([*one, *other])
            waiting += [
                (f"{path}/{_token(name)}", one.get(name, _ABSENT), other.get(name, _ABSENT)) for name in reversed(names)
            ]
        elif isinstance(one, list) and isinstance(other, list):
            longest = max(len(one), len(other))
            waiting += [(f"{path}/{index}", _at(one, index), _at(other, index)) for index in reversed(range(longest))]
        elif one is _ABSENT:
            found.append({"path": path, "kind": "added", "b": excerpt(other)})
        elif other is _ABSENT:
            found.append({"path": path, "kind": "removed", "a": excerpt(one)})
        elif not _same(one, other):
            found.append({"path": path, "kind": "changed", "a": excerpt(one), "b": excerpt(other)})
    return found


def _step(step_id: str, a: Row | None, b: Row | None) -> dict[str, Any]:
    output_a, output_b = (None if row is None else row.get("output") for row in (a, b))
    return {
        "step_id": step_id,
        "a": None if a is None else _measures(a),
        "b": None if b is None else _measures(b),
        "same_status": a is not None and b is not None and a["status"] == b["status"],
        "same_output": a is not None and b is not None and _same(output_a, output_b),
        "output_differences": differences(value(output_a), value(output_b)),
    }


def _summary(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "workflow_id": row["workflow_id"],
        "workflow_version": row["workflow_version"],
        **_measures(row),
    }


def _measures(row: Row) -> dict[str, Any]:
    return {
        "status": row["status"],
        "duration": duration_s(row.get("started_at"), row.get("completed_at")),
        "retry_count": row.get("retry_count") or row.get("retries") or 0,
        "tokens_used": row.get("tokens_used") or 0,
        "cost_usd": cost(row),
    }


def _same(a: Any, b: Any) -> bool:
    """Tell whether two JSON values are the same, whatever the order of members; 1, 1.0 and true all differ."""
    return msgspec.json.encode(_plain(a), order="deterministic") == msgspec.json.encode(
        _plain(b), order="deterministic"
    )


def _plain(one: Any) -> Any:
    return dict(one) if isinstance(one, Mapping) else one


def _at(items: list[Any], index: int) -> Any:
    return items[index] if index < len(items) else _ABSENT


def _token(name: str) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")
