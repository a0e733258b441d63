"""The projected tables: their keys, columns, types, defaults, and how a change combines with what is there.

`services/telemetry/.../migrations` creates the same tables; a test compares the two.

| table | one row for each |
|---|---|
| `executions` | execution that the log knows |
| `steps` | step that was reached, and each item of a `for_each` (`item` is -1 for the step itself) |
| `attempts` | attempt that ended |
| `transitions` | message of the log, with its events as they were written |

A column of JSON that holds a step's or an execution's value is `{"data": …}`, with `"refs"` beside it when
parts are claim-checked (`values.Payload`). SQL NULL means that there is no value yet.

Columns that say what something waits for (`held`, `paused`, `ending`, `wait_reason`, `signal`) are not cleared by what
ends the waiting if that is frequent: read them only while the status says that it waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

Rule = Literal["set", "first", "add", "derived"]
"""How a change meets the row: replace the value, keep what is there unless it is null, or add to it. A derived value
follows from the other columns of the row, and no change names it."""

NO_ITEM = -1
"""`item` of a row that is about the step and not one item of it: a key column cannot be null."""

EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Postgres type, the value of a row that nothing has set it on, and its rule."""

    type: str
    default: Any = None
    rule: Rule = "set"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One projected table.

    `key` names the primary key's columns, which are the first of `columns`. `derive` gives the derived columns of a
    row; in Postgres they are generated columns.
    """

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, Column]
    derive: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None

    def new_row(self, key: tuple[Any, ...]) -> dict[str, Any]:
        """Return the row of `key` before any change."""
        row = {name: column.default for name, column in self.columns.items()}
        row.update(zip(self.key, key, strict=True))
        return row

    def columns_of(self, rule: Rule) -> tuple[str, ...]:
        """Return the names of the columns with this rule, in order, without the key."""
        return tuple(name for name, column in self.columns.items() if column.rule == rule and name not in self.key)


def status_of(row: Mapping[str, Any]) -> str:
    """Return the status of an execution: it may be paused while a gate holds it, and be let in while it is paused."""
    if row["final_status"] is not None:
        return str(row["final_status"])
    if row["paused"] is not None:
        return "paused"
    return "running" if row["held"] is None else "pending"


_TEXT = Column("text")
_TIME = Column("timestamptz")
_JSON = Column("json")
_COUNT = Column("bigint", 0, "add")
_COST = Column("numeric", Decimal(0), "add")

EXECUTIONS = Table(
    "executions",
    ("id",),
    {
        "id": _TEXT,
        "workspace": Column("text", ""),  # empty when the log has lost its beginning
        "workflow_id": Column("text", ""),
        "workflow_name": Column("text", ""),
        "workflow_version": Column("integer", 0),
        "definition": Column("text", ""),  # content hash: the definition is on `def.<hash>`
        "execution_number": Column("bigint"),  # counts the workflow's executions; given by the SQL projection
        "execution_name": _TEXT,
        "priority": Column("text", "normal"),
        "labels": Column("jsonb", {}),
        "requested_by": Column("text", ""),
        "trace_id": Column("text", ""),
        "input": _JSON,
        "output": _JSON,
        "error": _JSON,
        "error_category": _TEXT,
        "tokens_used": _COUNT,
        "cost_usd": _COST,  # the sum of what is known
        "llm_calls": _COUNT,
        "unpriced_results": _COUNT,  # attempts whose price is not known: cost_usd leaves them out
        "steps_completed": _COUNT,
        "steps_failed": _COUNT,
        "steps_skipped": _COUNT,
        "steps_cancelled": _COUNT,
        "retries": _COUNT,
        "created_at": Column("timestamptz", EPOCH),
        "started_at": _TIME,
        "deadline_at": _TIME,
        "completed_at": _TIME,
        "updated_at": Column("timestamptz", EPOCH),
        "last_version": Column("integer", 0),
        "parent_id": _TEXT,  # the execution whose step this one performs; null at the top
        "parent_step": _TEXT,
        "parent_item": Column("integer"),
        "root_id": _TEXT,  # the execution at the top; null for that one itself
        "depth": Column("integer", 0),
        "inline": Column("boolean", False),  # a group or plan of its parent's workflow, and no execution of its own
        "part": Column("text", ""),  # the groups on the way to what it runs
        "origin": _JSON,  # messages.Origin: what it was started by
        "breakpoints": _JSON,  # a list of step ids
        "held": _JSON,  # {"gate", "rule", "key", "since"}: the gate that it waits at
        "paused": _JSON,  # {"reason", "by", "since", "deadline"}: `deadline_at` does not count meanwhile
        "ending": _JSON,  # {"outcome", "since", "deadline", "error"?}: how it will end, once what still runs is through
        "final_status": _TEXT,
        "status": Column("text", "running", "derived"),
    },
    lambda row: {"status": status_of(row)},
)

STEPS = Table(
    "steps",
    ("execution_id", "step", "item"),
    {
        "execution_id": _TEXT,
        "step": _TEXT,
        "item": Column("integer"),
        "status": Column("text", "pending"),
        "attempt": Column("integer", 0),
        "retry_count": Column("integer", 0, "add"),
        "item_count": Column("integer"),  # of a `for_each` that was expanded
        "reason": _TEXT,  # why it was skipped or cancelled
        "wait_until": _TIME,  # end of a wait, or when the next attempt starts
        "input": _JSON,
        "output": _JSON,
        "error": _JSON,
        "error_category": _TEXT,
        "runner": Column("text", ""),
        "tokens_used": _COUNT,
        "cost_usd": _COST,
        "llm_calls": _COUNT,
        "unpriced_results": _COUNT,
        "step_order": Column("bigint", None, "first"),  # order of first appearance in the log; not dense
        "scheduled_at": Column("timestamptz", None, "first"),
        "started_at": Column("timestamptz", None, "first"),
        "completed_at": _TIME,
        "updated_at": Column("timestamptz", EPOCH),
        "wait_reason": _TEXT,  # what it waits for, or last did: messages.WaitReason, or `retry`
        "signal": _TEXT,  # the name of the signal that it waits for, or last did
        "iteration": Column("integer", 1),  # of a `repeat`: the one that is under way, or was the last
        "child_id": _TEXT,  # the execution that performs its current, or last, attempt
        "cached": Column("boolean", False),  # its output came from the result cache
        "reused_from": _TEXT,  # the execution that its output was taken over from
        "scores": _JSON,  # of an agent's checks, by their names, from 0 to 1; null when it has none
    },
)

ATTEMPTS = Table(
    "attempts",
    ("execution_id", "step", "item", "attempt"),
    {
        "execution_id": _TEXT,
        "step": _TEXT,
        "item": Column("integer"),
        "attempt": Column("integer"),
        "status": Column("text", "failed"),
        "started_at": _TIME,
        "finished_at": _TIME,
        "error": _JSON,
        "runner": Column("text", ""),
        "tokens_used": Column("bigint", 0),
        "cost_usd": Column("numeric"),  # null when it is not known
        "llm_calls": Column("bigint", 0),
    },
)

TRANSITIONS = Table(
    "transitions",
    ("execution_id", "version"),
    {
        "execution_id": _TEXT,
        "version": Column("integer"),
        "stream_sequence": Column("bigint", 0),
        "at": Column("timestamptz", EPOCH),
        "events": Column("json"),
    },
)

TABLES: Mapping[str, Table] = {table.name: table for table in (EXECUTIONS, STEPS, ATTEMPTS, TRANSITIONS)}
