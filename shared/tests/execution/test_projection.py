"""The projection: what must hold for every log, by property."""

from random import Random
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace_shared.codec import encode
from millrace_shared.errors import MessageInvalid
from millrace_shared.execution import columns, projection
from millrace_shared.execution.changes import ChangeSet, Key
from millrace_shared.execution.tables import TABLES
from millrace_shared.execution.view import ExecutionView
from millrace_shared.messages import (
    Event,
    StepWaiting,
    Transition,
)
from millrace_shared.testing.logs import counts, encoded, interleaved, random_log, simple_log

ID = "0199d5f0-0000-7000-8000-000000000001"
Rows = dict[str, dict[Key, dict[str, Any]]]


def apply_in_batches(log: list[Transition], sizes: list[int]) -> Rows:
    """The rows after projecting `log` in batches: each batch is merged, and then applied to the rows."""
    rows: Rows = {name: {} for name in TABLES}
    sequence = 0
    remaining = list(log)
    while remaining:
        size = sizes.pop(0) if sizes else len(remaining)
        batch, remaining = remaining[:size], remaining[size:]
        merged = ChangeSet()
        for transition in batch:
            sequence += 1
            merged.merge(projection.changes(transition, sequence))
        for name, changes in merged.tables.items():
            for key, change in changes.items():
                table = TABLES[name]
                row = rows[name].setdefault(key, table.new_row(key))
                change.apply(row)
                row.update(table.derive(row) if table.derive is not None else {})
    return rows


@given(st.integers(0, 2**32), st.lists(st.integers(1, 7)))
def test_batch_boundaries_do_not_matter(seed: int, sizes: list[int]) -> None:
    random = Random(seed)
    log = interleaved(random, [random_log(random) for _ in range(3)])
    assert apply_in_batches(log, list(sizes)) == apply_in_batches(log, [1] * len(log))


@given(st.integers(0, 2**32))
def test_the_view_is_the_fold_of_the_same_changes(seed: int) -> None:
    log = random_log(Random(seed))
    rows = apply_in_batches(log, [])
    view = ExecutionView.fold(log)
    assert [view.execution] == list(rows["executions"].values())
    assert {(row["step"], row["item"]) for row in view.steps} == {key[1:] for key in rows["steps"]}
    assert all(row == rows["steps"][row["execution_id"], row["step"], row["item"]] for row in view.steps)
    assert view.attempts == list(rows["attempts"].values())


@given(st.integers(0, 2**32))
def test_every_row_has_exactly_the_columns_of_its_table(seed: int) -> None:
    for name, rows in apply_in_batches(random_log(Random(seed)), []).items():
        for row in rows.values():
            assert list(row) == list(TABLES[name].columns)


@given(st.integers(0, 2**32))
def test_repeating_a_transition_changes_nothing_in_a_view(seed: int) -> None:
    log = random_log(Random(seed))
    view = ExecutionView.fold(log)
    before = (dict(view.execution or {}), view.steps)
    assert not any(view.apply(transition) for transition in log)
    assert (view.execution, view.steps) == before


@given(st.integers(0, 2**32))
@settings(max_examples=25)
def test_stored_bytes_decode_without_any_nul(seed: int) -> None:
    for payload in encoded(random_log(Random(seed))):
        assert b"\\u0000" not in encode(projection.decode(payload)).replace(b"\\\\u0000", b"")


@given(st.text(alphabet='\\"u0\x00a'), st.text(alphabet='\\"u0\x00a'))
def test_only_nul_characters_are_replaced(key: str, value: str) -> None:
    payload = encode({key: value})
    replaced = columns.without_nul(payload)
    assert replaced == encode({key.replace("\x00", "�"): value.replace("\x00", "�")}).replace("�".encode(), b"\\ufffd")


def test_every_event_has_its_place_in_the_projection() -> None:
    assert set(projection._HANDLERS) == set(get_args(Event))


@pytest.mark.parametrize("time", [1e20, -1e20])
def test_an_impossible_time_is_refused(time: float) -> None:
    transition = Transition(1, ID, 1, 100.0, (StepWaiting("a", time),))
    with pytest.raises(MessageInvalid, match="impossible time"):
        projection.changes(transition, 1)


def test_counts_by_status() -> None:
    logs = [simple_log(ID), simple_log(ID.replace("1", "2"))[:-1]]
    assert counts(interleaved(Random(1), logs)) == {
        "executions": {"completed": 1, "running": 1},
        "steps": {"completed": 5, "pending": 1},
    }
