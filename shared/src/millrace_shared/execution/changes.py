"""Changes of rows: how they merge with one another, and how they apply to a row.

Merging first and applying once gives what applying one by one gives, wherever the batches are cut. That is
what lets the SQL projection write each row once per batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from millrace_shared.execution.tables import Table

Key = tuple[Any, ...]
Values = Mapping[str, Any]

NO_VALUES: Values = {}


class Change(msgspec.Struct, frozen=True, gc=False):
    """What one transition does to one row.

    Attributes:
        table: a key of `tables.TABLES`.
        key: values of the table's key columns.
        set: columns that get this value.
        add: columns that grow by this number.
        first: columns that get this value if they have none; never null.
    """

    table: str
    key: Key
    set: Values = NO_VALUES
    add: Values = NO_VALUES
    first: Values = NO_VALUES


class RowChange:
    """Several changes of one row, merged; it begins as the first of them."""

    __slots__ = ("add", "first", "set")

    def __init__(self, change: Change) -> None:
        self.set: dict[str, Any] = dict(change.set)
        self.add: dict[str, Any] = dict(change.add)
        self.first: dict[str, Any] = dict(change.first)

    def merge(self, change: Change) -> None:
        """Let `change` follow what is here."""
        self.set.update(change.set)
        for column, number in change.add.items():
            self.add[column] = self.add.get(column, 0) + number
        for column, value in change.first.items():
            self.first.setdefault(column, value)

    def apply(self, row: dict[str, Any]) -> None:
        """Change `row` in place."""
        row.update(self.set)
        for column, number in self.add.items():
            row[column] += number
        for column, value in self.first.items():
            if row[column] is None:
                row[column] = value


class ChangeSet:
    """The changes of a batch, merged per row: `tables[name][key]`."""

    __slots__ = ("tables",)

    def __init__(self) -> None:
        self.tables: dict[str, dict[Key, RowChange]] = {}

    def merge(self, changes: Iterable[Change]) -> None:
        """Let `changes` follow what is here."""
        tables = self.tables
        for change in changes:
            rows = tables.get(change.table)
            if rows is None:
                rows = tables[change.table] = {}
            row = rows.get(change.key)
            if row is None:
                rows[change.key] = RowChange(change)
            else:
                row.merge(change)


def apply(rows: dict[Key, dict[str, Any]], table: Table, change: Change) -> None:
    """Apply one change to rows in memory, making the row if there is none."""
    row = rows.get(change.key)
    if row is None:
        row = rows[change.key] = table.new_row(change.key)
    RowChange(change).apply(row)
    if table.derive is not None:
        row.update(table.derive(row))
