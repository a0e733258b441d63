"""How an execution is shown, from its rows: those of the projection, or those folded from its log, which are the same.

Times are UTC text, durations seconds. A value that is kept in the blob store is shown as what it is worth knowing of
it; the whole value is at `GET /executions/{id}/steps/{step_id}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from millrace_shared.definition.model import Step, WorkflowDefinition
from millrace_shared.execution.tables import NO_ITEM

SUMMARY_BYTES_MAX = 4 * 1024
"""More of an input or output than this is cut in the timeline."""
FINAL = frozenset({"completed", "failed", "cancelled", "timeout"})
"""The statuses that an execution ends with."""
STEP_FINAL = FINAL | {"skipped"}
"""The statuses that a step ends with."""

Row = Mapping[str, Any]


def timestamp(moment: float | datetime | None) -> str | None:
    """Return `2026-01-15T10:00:00.123456Z`, or None."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    elif moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return f"{moment.isoformat()[:-6]}Z"  # without the +00:00


def duration_s(start: float | datetime | None, end: float | datetime | None) -> float | None:
    """Return the seconds between two moments, or None while one is missing."""
    if start is None or end is None:
        return None
    return max(0.0, round(_unix(end) - _unix(start), 6))


def _unix(moment: float | datetime) -> float:
    return moment.timestamp() if isinstance(moment, datetime) else moment


def value(payload: Any) -> Any:
    """Return what a payload column holds, with the parts that are in the blob store named in their place."""
    if payload is None:
        return None
    data, references = payload.get("data"), payload.get("refs") or {}
    if not references:
        return data
    whole = references.get("")
    if whole is not None:
        return _stored(whole)
    return {"value": data, "stored": {pointer: _stored(reference) for pointer, reference in references.items()}}


def _stored(reference: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stored": True,
        "size_bytes": reference["size_bytes"],
        "sha256": reference["sha256"],
    }


def error_message(error: Mapping[str, Any] | None) -> str | None:
    """Return the message of an error column."""
    return None if error is None else error.get("message")


def detail(row: Row, steps: Iterable[Row], definition: WorkflowDefinition | None) -> dict[str, Any]:
    """Return the body of `GET /executions/{id}`."""
    return {
        **listed(row),
        "breakpoints": row.get("breakpoints") or [],
        "input_variables": value(row.get("input")) or {},
        "results": value(row.get("output")),
        "step_executions": [step_detail(step, definition) for step in in_order(row, steps, definition)],
    }


def listed(row: Row) -> dict[str, Any]:
    """Return an entry of a list of executions: everything of the detail that is small."""
    error = row.get("error")
    return {
        "id": row["id"],
        "workflow_id": row["workflow_id"],
        "workflow_name": row["workflow_name"],
        "workflow_version": row["workflow_version"],
        "execution_number": row.get("execution_number"),
        "execution_name": row.get("execution_name"),
        "status": row["status"],
        "priority": row.get("priority") or "normal",
        "started_at": timestamp(row.get("started_at")),
        "completed_at": timestamp(row.get("completed_at")),
        "duration": duration_s(row.get("started_at"), row.get("completed_at")),
        "error": shown_error(error),
        "error_message": error_message(error),
        "tokens_used": row.get("tokens_used") or 0,
        "cost_usd": cost(row),
        "trace_id": row.get("trace_id"),
        "labels": row.get("labels") or {},
        **lineage(row),
        **standstill(row),
        "created_at": timestamp(row.get("created_at")),
        "updated_at": timestamp(row.get("updated_at") or row.get("created_at")),
    }


def lineage(row: Row) -> dict[str, Any]:
    """Return where an execution comes from: the step that it performs, and what it was started by."""
    origin = row.get("origin")
    return {
        "parent_id": row.get("parent_id"),
        "parent_step_id": row.get("parent_step"),
        "parent_item": row.get("parent_item"),
        "root_id": row.get("root_id") or row["id"],
        "depth": row.get("depth") or 0,
        "part": row.get("part") or None,
        "origin": origin
        and {
            "kind": origin["kind"],
            "execution_id": origin.get("execution_id") or None,
            "step_id": origin.get("step") or None,
            "trigger_id": origin.get("trigger_id") or None,
        },
    }


def standstill(row: Row) -> dict[str, Any]:
    """Return what keeps an execution: the gate that it waits at, who paused it, and how it is ending."""
    status = row["status"]
    held = row.get("held") if status == "pending" else None
    paused = row.get("paused") if status == "paused" else None
    ending = row.get("ending") if status not in FINAL else None
    return {
        "held": held and {"rule": held["rule"], "key": held["key"] or None, "since": held["since"]},
        "paused": paused and {"by": paused["by"] or None, "reason": paused["reason"] or None, "since": paused["since"]},
        "ending": ending and {"outcome": ending["outcome"], "since": ending["since"]},
        "deadline": timestamp(row.get("deadline_at")) if paused is None else paused["deadline"],
    }


def cost(row: Row) -> float | None:
    """Return what the LLM calls of a row cost, in US dollars; None when some of it has no known price."""
    if row.get("unpriced_results"):
        return None
    known = row.get("cost_usd")
    return 0.0 if known is None else float(known)


def item_detail(row: Row) -> dict[str, Any]:
    """Return how one item of a `for_each` step fared, without its values."""
    return {
        "item": row["item"],
        "started_at": timestamp(row.get("started_at")),
        "completed_at": timestamp(row.get("completed_at")),
        "duration": duration_s(row.get("started_at"), row.get("completed_at")),
        "retry_count": row.get("retry_count") or 0,
        "error_message": error_message(row.get("error")),
        **progress(row, None),
    }


def attempt_detail(row: Row) -> dict[str, Any]:
    """Return one attempt that has ended."""
    return {
        "attempt": row["attempt"],
        "status": row["status"],
        "started_at": timestamp(row.get("started_at")),
        "completed_at": timestamp(row.get("finished_at")),
        "duration": duration_s(row.get("started_at"), row.get("finished_at")),
        "runner": row.get("runner") or None,
        "error": row.get("error"),
        "tokens_used": row.get("tokens_used") or 0,
        "cost_usd": cost({**row, "unpriced_results": row.get("llm_calls") and row.get("cost_usd") is None}),
    }


def progress(step: Row, known: Step | None) -> dict[str, Any]:
    """Return where a step is: its status, what it waits for, and where its work is done or its output came from.

    `reason` says what a waiting step waits for (`approval`, `signal`, `delay`, `until`, `breakpoint`, `retry`,
    `tokens`, `budget`), `place` when others that run must end first, and why a step was skipped or cancelled.
    `wait_detail` says more of it, where an agent waits.
    """
    status, waiting = step["status"], step["status"] == "waiting"
    reason = step.get("wait_reason") if waiting else "place" if status == "queued" else step.get("reason")
    return {
        "status": "pending" if status == "queued" else status,
        "reason": reason,
        "wait_until": timestamp(step.get("wait_until")) if waiting else None,
        "wait_detail": step.get("reason") if waiting else None,
        "signal": step.get("signal") if waiting and reason == "signal" else None,
        "iteration": (step.get("iteration") or 1) if known is not None and known.repeat is not None else None,
        "child_execution_id": step.get("child_id"),
        "cached": bool(step.get("cached")),
        "reused_from": step.get("reused_from"),
        "scores": step.get("scores") or {},
    }


def shown_error(error: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return an execution's error as clients know it."""
    if error is None:
        return None
    inner = error.get("detail") or {}
    return {
        "code": error.get("code"),
        "category": error.get("category"),
        "message": error.get("message"),
        "step_id": inner.get("step_id"),
    }


def in_order(row: Row, steps: Iterable[Row], definition: WorkflowDefinition | None) -> list[Row]:
    """Return one row per step in the author's order, with a pending one for each step that has none yet."""
    by_step = {step["step"]: step for step in steps if step.get("item") in (None, NO_ITEM)}
    if definition is None:
        return sorted(by_step.values(), key=lambda step: step.get("step_order") or 0)
    status = "pending" if row["status"] not in FINAL else "skipped"
    blank = {"execution_id": row["id"], "status": status}
    return [by_step.get(step_id) or {**blank, "step": step_id} for step_id in definition.steps]


def step_id_of(execution_id: str, step: Row) -> str:
    """Return the id of a step of an execution, or of one item of it."""
    item = step.get("item")
    name: str = step["step"]
    return f"{execution_id}:{name}" if item in (None, NO_ITEM) else f"{execution_id}:{name}[{item}]"


def step_detail(step: Row, definition: WorkflowDefinition | None) -> dict[str, Any]:
    """Return one entry of `step_executions`."""
    execution_id = str(step["execution_id"])
    known = definition.steps.get(step["step"]) if definition is not None else None
    return {
        "id": step_id_of(execution_id, step),
        "execution_id": execution_id,
        "step_id": step["step"],
        "agent_id": known.agent if known is not None else None,
        "started_at": timestamp(step.get("started_at")),
        "completed_at": timestamp(step.get("completed_at")),
        "duration": duration_s(step.get("started_at"), step.get("completed_at")),
        "retry_count": step.get("retry_count") or 0,
        "input_data": value(step.get("input")),
        "output_data": value(step.get("output")),
        "error": step.get("error"),
        "error_message": error_message(step.get("error")),
        "tokens_used": step.get("tokens_used") or 0,
        "cost_usd": cost(step),
        **progress(step, known),
    }


def timeline(row: Row, steps: Sequence[Row], definition: WorkflowDefinition | None) -> dict[str, Any]:
    """Return the body of `GET /executions/{id}/timeline`."""
    ordered = in_order(row, steps, definition)
    statuses = [step["status"] for step in ordered]
    return {
        "execution_id": row["id"],
        "workflow_id": row["workflow_id"],
        "status": row["status"],
        "started_at": timestamp(row.get("started_at")),
        "completed_at": timestamp(row.get("completed_at")),
        "total_duration_seconds": duration_s(row.get("started_at"), row.get("completed_at")),
        "step_count": len(ordered),
        "completed_step_count": statuses.count("completed"),
        "failed_step_count": statuses.count("failed") + statuses.count("timeout"),
        "skipped_step_count": statuses.count("skipped"),
        "step_timeline": [_timeline_step(position, step, definition) for position, step in enumerate(ordered)],
        "error_message": error_message(row.get("error")),
    }


def _timeline_step(position: int, step: Row, definition: WorkflowDefinition | None) -> dict[str, Any]:
    known = definition.steps.get(step["step"]) if definition is not None else None
    return {
        "step_id": step["step"],
        "step_name": (known.name if known is not None else None) or step["step"],
        "step_order": position,
        "started_at": timestamp(step.get("started_at")),
        "completed_at": timestamp(step.get("completed_at")),
        "duration_seconds": duration_s(step.get("started_at"), step.get("completed_at")),
        "retry_count": step.get("retry_count") or 0,
        "error_message": error_message(step.get("error")),
        "input_summary": summary(step.get("input")),
        "output_summary": summary(step.get("output")),
        **progress(step, known),
    }


def summary(payload: Any) -> Any:
    """Return a payload's value, or, when it is long, the beginning of its JSON, saying that it was cut."""
    shown = value(payload)
    if shown is None:
        return None
    text = shown if isinstance(shown, str) else None
    encoded = msgspec.json.encode(shown)
    if len(encoded) <= SUMMARY_BYTES_MAX:
        return shown
    beginning = (text.encode() if text is not None else encoded)[:SUMMARY_BYTES_MAX].decode("utf-8", "ignore")
    return {"truncated": True, "size_bytes": len(encoded), "preview": beginning}


def accepted(execution_id: str, execution_name: str | None, workflow_id: str, requested_at: float) -> dict[str, Any]:
    """Return the body of a 202."""
    return {
        "execution_id": execution_id,
        "execution_name": execution_name,
        "workflow_id": workflow_id,
        "status": "pending",
        "created_at": timestamp(requested_at),
    }
