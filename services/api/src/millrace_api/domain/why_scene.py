"""What is known when somebody asks why an execution has not ended, and what the answer is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from millrace_api.domain.phrases import span
from millrace_api.domain.rendering import Row
from millrace_shared.definition.model import Step, WorkflowDefinition
from millrace_shared.gates import Terms

ITEMS_MAX = 5
"""Items of a `for_each` that are explained one by one."""
AHEAD_MAX = 1_000
"""Executions before this one at a gate that are counted."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that an execution waits for.

    Attributes:
        code: stable; what kind of thing it is.
        message: a sentence without a full stop.
        step_id: the step that it is about, if it is about one.
        item: the item of it, likewise.
        until: when it is over at the latest, as text.
        execution_id: the other execution that it is about.
        reasons: why that is not over: of a child execution, or of items.
    """

    code: str
    message: str
    step_id: str | None = None
    item: int | None = None
    until: str | None = None
    execution_id: str | None = None
    reasons: tuple[Reason, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return it as clients get it."""
        return {
            "code": self.code,
            "message": self.message,
            "step_id": self.step_id,
            "item": self.item,
            "until": self.until,
            "execution_id": self.execution_id,
            "reasons": [reason.document() for reason in self.reasons],
        }


@dataclass(frozen=True, slots=True)
class Queue:
    """Work of one kind: attempts that wait for a runner, that a runner has, and requests of runners for more."""

    waiting: int
    taken: int
    runners: int


@dataclass(frozen=True, slots=True)
class Line:
    """The gate that the execution waits at: its terms, how many are inside and ahead, and whether it was let in.

    `ahead` is exact up to `AHEAD_MAX`.
    """

    terms: Terms
    inside: int
    ahead: int
    is_admitted: bool


@dataclass(frozen=True, slots=True)
class Inbox:
    """What the orchestrators have not read yet of the execution's partition, and whether one of them holds it."""

    unread: int
    is_held: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that an explanation may rest on. What is not known is absent, and is not spoken of.

    Attributes:
        row: the execution.
        steps: its steps that were reached, without items.
        items: items that have not ended, some of them if they are many.
        definition: what it runs.
        now: when it was asked.
        counts: how many items of each `for_each` step have which status.
        queues: the work of each kind.
        line: who else is at its gate.
        inbox: of its partition.
        children: the reasons of child executions, by their ids.
        last_event: the type of the last event of its log, and the step that it is about.
        relook_s: how often an execution is looked at although nothing happened.
    """

    row: Row
    steps: Sequence[Row]
    definition: WorkflowDefinition | None
    now: datetime
    items: Sequence[Row] = ()
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    queues: Mapping[str, Queue] = field(default_factory=dict)
    line: Line | None = None
    inbox: Inbox | None = None
    children: Mapping[str, Sequence[Reason]] = field(default_factory=dict)
    last_event: str = "not known"
    relook_s: float = 600.0

    @property
    def relook(self) -> str:
        """What makes sure that nothing is forgotten."""
        return f"an orchestrator looks at it again within {span(self.relook_s)}"

    @property
    def execution_id(self) -> str:
        """Of the execution in question."""
        return str(self.row["id"])

    @property
    def under_way(self) -> int:
        """Steps and items that take a place: runners or child executions have them."""
        steps = sum(one["status"] in {"pending", "running"} and one.get("item_count") is None for one in self.steps)
        return steps + sum(count for (_, status), count in self.counts.items() if status in {"pending", "running"})

    def step(self, row: Row) -> Step | None:
        """Return the definition of a row's step."""
        return None if self.definition is None else self.definition.steps.get(row["step"])

    def item_counts(self, step: str) -> dict[str, int]:
        """Return how many items of a step have which status."""
        return {status: count for (of, status), count in self.counts.items() if of == step}
