"""An execution in memory, from its log: the same rows as Postgres holds once the log is projected.

`execution_number` alone is missing, since it counts the executions of a workflow, of which this log is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from millrace_shared.execution import projection
from millrace_shared.execution.changes import Key, apply
from millrace_shared.execution.tables import ATTEMPTS, EXECUTIONS, NO_ITEM, STEPS, TABLES
from millrace_shared.messages import Transition


class ExecutionView:
    """The rows of one execution, as far as its log was applied."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[Key, dict[str, Any]]] = {table.name: {} for table in (EXECUTIONS, STEPS, ATTEMPTS)}

    @classmethod
    def fold(cls, transitions: Iterable[Transition]) -> Self:
        """Return the view of a whole log.

        Raises:
            MessageInvalid: a transition holds an impossible time.
        """
        view = cls()
        for transition in transitions:
            view.apply(transition)
        return view

    @classmethod
    def of_log(cls, payloads: Iterable[bytes]) -> Self:
        """Return the view of a log as it is stored.

        Raises:
            MessageInvalid: one of the payloads is not a transition.
        """
        return cls.fold(map(projection.decode, payloads))

    def apply(self, transition: Transition) -> bool:
        """Apply the next transition. One that was applied already changes nothing and gives False.

        Raises:
            MessageInvalid: it holds an impossible time.
        """
        if transition.version <= self.last_version:
            return False
        for change in projection.changes(transition, 0):
            rows = self._rows.get(change.table)
            if rows is not None:
                apply(rows, TABLES[change.table], change)
        return True

    @property
    def last_version(self) -> int:
        """Version of the last transition that was applied; 0 before the first."""
        for row in self._rows["executions"].values():
            version: int = row["last_version"]
            return version
        return 0

    @property
    def execution(self) -> dict[str, Any] | None:
        """The row of `telemetry.executions`, or None while the log is empty."""
        return next(iter(self._rows["executions"].values()), None)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The rows of `telemetry.steps` in order of appearance, items of a `for_each` included."""
        return sorted(self._rows["steps"].values(), key=lambda row: (row["step_order"], row["item"]))

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """The rows of `telemetry.attempts`, in the order in which the attempts ended."""
        return list(self._rows["attempts"].values())

    def step(self, step: str, item: int | None = None) -> dict[str, Any] | None:
        """The row of one step, or of one item of it; None when the log does not mention it yet."""
        execution = self.execution
        key = (execution and execution["id"], step, NO_ITEM if item is None else item)
        return self._rows["steps"].get(key)
