"""How an execution goes on, folded from its live feed into a row per step."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from millrace.cli.show import cost_text, duration_text, rows_table, status_text
from millrace.client.shapes import LiveMessage

_STATUSES = {
    "execution.started": "running",
    "execution.held": "pending",
    "execution.admitted": "running",
    "execution.paused": "paused",
    "execution.resumed": "running",
}
_ENDS = {
    "step.reused": "completed",
    "step.completed": "completed",
    "step.failed": "failed",
    "step.skipped": "skipped",
    "step.cancelled": "cancelled",
}


@dataclass
class StepProgress:
    """One step so far."""

    status: str = "pending"
    started_at: datetime | None = None
    ended_at: datetime | None = None
    retries: int = 0
    items: int | None = None
    items_ended: int = 0
    cost_usd: float = 0.0
    priced: bool = True
    tokens: int = 0

    def duration_s(self, now: datetime) -> float | None:
        """Return how long the step took, or has taken until now."""
        if self.started_at is None or self.status in ("pending", "skipped"):
            return None
        return max(0.0, ((self.ended_at or now) - self.started_at).total_seconds())


@dataclass
class Progress:
    """All steps of an execution, in the author's order."""

    steps: dict[str, StepProgress] = field(default_factory=dict)
    status: str = "pending"

    @classmethod
    def of(cls, step_ids: Iterable[str]) -> "Progress":
        """Return an execution of which nothing has been heard yet."""
        return cls({step_id: StepProgress() for step_id in step_ids})

    def apply(self, message: LiveMessage) -> str | None:
        """Take a message of the feed. Returns the step that has come to its end by it, if one has."""
        event, data = message["event"], message["data"]
        if event in _STATUSES:
            self.status = _STATUSES[event]
        elif event == "execution.finished":
            self.status = str(data["status"])
        if "step" not in data:
            return None
        step = self.steps.setdefault(data["step"], StepProgress())
        if event == "llm.call":
            self._price(step, data)
            return None
        at = _moment(data.get("timestamp"))
        if data.get("item") is not None:
            step.items_ended += event in _ENDS
            return None
        if event in _ENDS:
            step.status = "timeout" if _timed_out(event, data) else _ENDS[event]
            step.started_at = step.started_at or at
            step.ended_at = at
            return str(data["step"])
        self._begin(step, event, data, at)
        return None

    @staticmethod
    def _begin(step: StepProgress, event: str, data: dict[str, Any], at: datetime | None) -> None:
        if event == "step.expanded":
            step.items = data["count"]
        if event == "step.waiting":
            step.status = "waiting"
        elif event in ("step.scheduled", "step.expanded", "step.started"):
            step.status = "running"
        elif event == "step.retry_scheduled":
            step.status = "waiting"
            step.retries += 1
        step.started_at = step.started_at or at

    @staticmethod
    def _price(step: StepProgress, data: dict[str, Any]) -> None:
        step.tokens += int(data.get("input_tokens") or 0) + int(data.get("output_tokens") or 0)
        cost = data.get("cost_usd")
        step.priced &= cost is not None
        step.cost_usd += float(cost or 0)

    def table(self) -> Table:
        """Return a row for each step."""
        now = datetime.now(UTC)
        return rows_table(
            ("step", "status", ">duration", ">items", ">retries", ">tokens", ">cost"),
            (
                (
                    step_id,
                    status_text(step.status),
                    duration_text(step.duration_s(now)),
                    "" if step.items is None else f"{step.items_ended}/{step.items}",
                    str(step.retries or ""),
                    str(step.tokens or ""),
                    cost_text(step.cost_usd if step.priced else None),
                )
                for step_id, step in self.steps.items()
            ),
        )


def _timed_out(event: str, data: dict[str, Any]) -> bool:
    return event == "step.failed" and (data.get("error") or {}).get("category") == "timeout"


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
