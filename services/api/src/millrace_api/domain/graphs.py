"""An execution as a graph: its steps as nodes, and what they need as edges, with how far each of them is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from millrace_api.domain.rendering import STEP_FINAL, Row, duration_s, in_order, progress, timestamp
from millrace_shared.definition.model import Step, WorkflowDefinition

EdgeStatus = Literal["pending", "satisfied", "unsatisfied"]
Counts = Mapping[tuple[str, str], int]
"""(step id, status) -> items of that `for_each` step."""


def graph(row: Row, steps: Sequence[Row], definition: WorkflowDefinition | None, items: Counts) -> dict[str, Any]:
    """Return the body of `GET /executions/{id}/graph`.

    Args:
        row: the execution.
        steps: its steps, and possibly their items, which are left out.
        definition: what it runs. Without it there are only the steps that were reached, and no edges.
        items: how many items of each `for_each` step have which status.
    """
    rows = {step["step"]: step for step in in_order(row, steps, definition)}
    known = {} if definition is None else definition.steps
    return {
        "execution_id": row["id"],
        "workflow_id": row["workflow_id"],
        "workflow_version": row["workflow_version"],
        "part": row.get("part") or None,
        "status": row["status"],
        "nodes": [_node(step_id, step, known.get(step_id), items) for step_id, step in rows.items()],
        "edges": [
            {"from": need, "to": step_id, "status": _edge_status(rows[need], known[need])}
            for step_id, step in known.items()
            for need in step.needs
        ],
    }


def count_items(steps: Iterable[Row]) -> dict[tuple[str, str], int]:
    """Return `Counts` of rows in memory."""
    counts: dict[tuple[str, str], int] = {}
    for step in steps:
        if step["item"] >= 0:
            key = (step["step"], step["status"])
            counts[key] = counts.get(key, 0) + 1
    return counts


def _node(step_id: str, row: Row, step: Step | None, items: Counts) -> dict[str, Any]:
    return {
        "id": step_id,
        "name": (step and step.name) or step_id,
        "kind": step and step.kind,
        "when": step and step.when,
        "run": step and step.run,
        "started_at": timestamp(row.get("started_at")),
        "completed_at": timestamp(row.get("completed_at")),
        "duration": duration_s(row.get("started_at"), row.get("completed_at")),
        "retry_count": row.get("retry_count") or 0,
        "item_count": row.get("item_count"),
        "items": _shown(step_id, items) if row.get("item_count") is not None else None,
        **progress(row, step),
    }


def _shown(step_id: str, items: Counts) -> dict[str, int]:
    """Count the items of a step by the statuses that clients know."""
    shown: dict[str, int] = {}
    for (of, status), count in items.items():
        if of == step_id:
            name = "pending" if status == "queued" else status
            shown[name] = shown.get(name, 0) + count
    return shown


def _edge_status(source: Row, step: Step) -> EdgeStatus:
    """Tell whether the step at the beginning of an edge has ended, and in a way that counts as completed."""
    status = source["status"]
    if status not in STEP_FINAL:
        return "pending"
    continued = step.on_error == "continue" and status in {"failed", "timeout"}
    return "satisfied" if status == "completed" or continued else "unsatisfied"
