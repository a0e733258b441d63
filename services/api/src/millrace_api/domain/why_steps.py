"""Why a step has not ended: one sentence for each thing that it waits for. Pure.

| status of its row | what it waits for |
|---|---|
| `queued` | a free place: as many steps run as may run at once |
| `waiting` | what `wait_reason` says: a time, a signal, a person, its next attempt |
| `pending` | a runner, or, if another execution performs it, that one |
| `running` | the runner that has begun it, or the items of a `for_each` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from millrace_api.domain.phrases import clock, since, span, until
from millrace_api.domain.rendering import STEP_FINAL, Row, timestamp
from millrace_api.domain.why_scene import ITEMS_MAX, Reason, Scene

OVERDUE_S = 5.0
"""A wait that is over for longer than this is late: in a moment the orchestrator would have noticed."""


def step_reasons(scene: Scene, row: Row) -> list[Reason]:
    """Return why one step, or one item of it, has not ended; nothing when it has."""
    match row["status"]:
        case "queued":
            return [_queued(scene, row)]
        case "waiting":
            return [_waiting(scene, row)]
        case "pending":
            return [_child(scene, row) if row.get("child_id") else _handed_out(scene, row)]
        case "running":
            return [_items(scene, row) if row.get("item_count") is not None else _running(scene, row)]
        case _:
            return []


@dataclass(frozen=True, slots=True)
class _Named:
    """A step, or an item of it, as sentences name it and as an address leads to it."""

    text: str
    path: str


def _named(scene: Scene, row: Row) -> _Named:
    step, item = row["step"], row["item"]
    path = f"/executions/{scene.execution_id}/steps/{step}"
    return _Named(f"step `{step}`", path) if item < 0 else _Named(f"item {item} of step `{step}`", path)


def _reason(code: str, row: Row, message: str, moment: datetime | None = None, **rest: Any) -> Reason:
    item = row["item"]
    return Reason(code, message, row["step"], None if item < 0 else item, timestamp(moment), **rest)


def _queued(scene: Scene, row: Row) -> Reason:
    name, definition = _named(scene, row).text, scene.definition
    if definition is None:
        return _reason("place", row, f"{name} is queued: it waits for a free place")
    limit = definition.limits.max_parallel
    if scene.under_way >= limit:
        reason = f"{scene.under_way} of its steps run at once, and limits.max_parallel is {limit}"
    else:
        reason = f"limits.max_parallel is {limit}, and a place is about to be given to it"
    return _reason("place", row, f"{name} is queued: {reason}")


def _waiting(scene: Scene, row: Row) -> Reason:
    name, end, now = _named(scene, row), row["wait_until"], scene.now
    begun = row["updated_at"]
    lasts = f"{since(begun, now)}, {until(end, now)}"
    address = name.path
    match row.get("wait_reason"):
        case "retry":
            return _retry(scene, row)
        case "signal":
            signal = row.get("signal") or "?"
            to_do = f"POST /executions/{scene.execution_id}/signal"
            message = f"waits for the signal `{signal}` {lasts} (then: {_without_signal(scene, row)}): {to_do}"
        case "approval":
            message = f"waits for an approval {lasts} (then: {_without_verdict(scene, row)}): POST {address}/approve"
        case "tokens" | "budget":
            message = f"waits for {row.get('reason') or row['wait_reason']} {lasts}"
        case "breakpoint":
            message = f"is held at a breakpoint {lasts}: POST {address}/continue"
        case reason:
            message = f"waits {lasts}"
            if (now - end).total_seconds() > OVERDUE_S:
                return _reason(reason or "delay", row, f"{name.text} {_overdue(scene, end)}", end)
    late = (now - end).total_seconds() > OVERDUE_S
    message = f"{message}; that is over, but {_not_noticed(scene)}" if late else message
    return _reason(row.get("wait_reason") or "delay", row, f"{name.text} {message}", end)


def _overdue(scene: Scene, end: datetime) -> str:
    return f"waited until {clock(end)}, {span((scene.now - end).total_seconds())} ago, but {_not_noticed(scene)}"


def _not_noticed(scene: Scene) -> str:
    return f"no orchestrator has gone on yet: {scene.relook}"


def _without_signal(scene: Scene, row: Row) -> str:
    step = scene.step(row)
    if step is None or step.wait is None:
        return "its timeout decides"
    return "it completes with its default" if step.wait.has_default else "it fails as timeout"


def _without_verdict(scene: Scene, row: Row) -> str:
    step = scene.step(row)
    if step is not None and step.approval is None:
        return "the agent goes on without an answer"
    return "its default decides" if step is None or step.approval is None else step.approval.default


def _retry(scene: Scene, row: Row) -> Reason:
    name, end = _named(scene, row).text, row["wait_until"]
    step, attempt = scene.step(row), row["attempt"] + 1
    of = ""
    if scene.definition is not None and step is not None and step.repeat is None:  # iterations count on
        of = f" of {scene.definition.retry_of(row['step']).max_attempts}"
    error = row.get("error") or {}
    after = f", after {error.get('category', 'an error')}: {error.get('message', '')}"
    seconds = (end - scene.now).total_seconds()
    if seconds < -OVERDUE_S:
        return _reason("retry", row, f"attempt {attempt}{of} of {name} {_overdue(scene, end)}{after}", end)
    return _reason("retry", row, f"attempt {attempt}{of} of {name} starts in {span(seconds)}{after}", end)


def _handed_out(scene: Scene, row: Row) -> Reason:
    name, step = _named(scene, row).text, scene.step(row)
    ago = span((scene.now - row["updated_at"]).total_seconds())
    if not row["attempt"]:  # an iteration or a retry that is about to be handed out
        return _reason("handed_out", row, f"{name} is about to be handed to the runners")
    text = f"attempt {row['attempt']} of {name} was handed to the runners {ago} ago, and none has said that it began it"
    queue = scene.queues.get(step.kind) if step is not None else None
    if queue is None:
        return _reason("handed_out", row, text)
    counted = f"{queue.waiting} {step.kind if step is not None else ''} attempts are queued, {queue.taken} are taken"
    return _reason("handed_out", row, f"{text}: {counted}" + ("" if queue.runners else ", and no runner asks for any"))


def _running(scene: Scene, row: Row) -> Reason:
    name = _named(scene, row).text
    begun = row.get("started_at") or row["updated_at"]
    seconds = (scene.now - begun).total_seconds()
    text = f"{name} has run for {span(seconds)}" + (f" on {row['runner']}" if row.get("runner") else "")
    if scene.definition is None or scene.step(row) is None:
        return _reason("running", row, text)
    limit_s = scene.definition.timeout_s_of(row["step"])
    if seconds > limit_s + OVERDUE_S:
        text = f"{text}, longer than the {span(limit_s)} that it may: its runner is lost, and another takes over"
        return _reason("running", row, text)
    return _reason("running", row, f"{text}, of at most {span(limit_s)}")


def _items(scene: Scene, row: Row) -> Reason:
    """A `for_each` that is expanded: its items say the rest."""
    step = row["step"]
    total = row["item_count"]
    reached = [one for one in scene.items if one["step"] == step]
    inner = [reason for one in reached[:ITEMS_MAX] for reason in step_reasons(scene, one)]
    text = f"{_named(scene, row).text} runs {total} items"
    counts = scene.item_counts(step)
    if counts:
        ended = sum(count for status, count in counts.items() if status in STEP_FINAL)
        text = f"{text}: {ended} of them ended, {sum(counts.values()) - ended} under way"
    if inner:
        text = f"{text}; the first of them: {inner[0].message}"
    return _reason("items", row, text, reasons=tuple(inner))


def _child(scene: Scene, row: Row) -> Reason:
    name, child_id = _named(scene, row).text, row["child_id"]
    inner: Sequence[Reason] | None = scene.children.get(child_id)
    text = f"{name} waits for its execution {child_id}"
    if inner:
        text = f"{text}: {inner[0].message}"
    return _reason("child", row, text, execution_id=child_id, reasons=tuple(inner or ()))
