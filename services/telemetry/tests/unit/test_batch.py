"""Batches of messages, without any server."""

from decimal import Decimal
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from millrace_shared.codec import encode
from millrace_shared.errors import MessageInvalid
from millrace_shared.execution.tables import TABLES
from millrace_shared.messages import ExecutionStarted, LlmCall, Parent, StepStarted, StepWaiting, TokenDelta, Transition
from millrace_shared.subjects import fact as fact_subject
from millrace_shared.subjects import log as log_subject
from millrace_shared.testing.logs import interleaved, random_log, simple_log
from millrace_telemetry.adapters import sql
from millrace_telemetry.domain.batch import FactBatch, LogBatch

ID = "0199d5f0-0000-7000-8000-000000000001"
OTHER = "0199d5f0-0000-7000-8000-000000000002"


def batch_of(log: list[Transition]) -> LogBatch:
    batch = LogBatch()
    for sequence, transition in enumerate(log, 1):
        batch.add(log_subject(transition.execution_id), sequence, encode(transition))
    return batch


def test_a_transition_on_another_subject_is_refused() -> None:
    batch = LogBatch()
    with pytest.raises(MessageInvalid, match=f"of {ID} stands on {log_subject(OTHER)}"):
        batch.add(log_subject(OTHER), 1, encode(simple_log(ID)[0]))
    assert batch.changes.tables == {}


def test_nothing_stays_of_a_refused_message() -> None:
    batch = batch_of(simple_log(ID)[:1])
    before = {name: dict(rows) for name, rows in batch.changes.tables.items()}
    with pytest.raises(MessageInvalid):
        batch.add(log_subject(OTHER), 2, encode(Transition(1, OTHER, 1, 1.0, (StepWaiting("a", 1e30),))))
    assert {name: dict(rows) for name, rows in batch.changes.tables.items()} == before


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_bytes_that_are_no_message_are_refused(payload: bytes) -> None:
    for batch in (LogBatch(), FactBatch()):
        with pytest.raises(MessageInvalid):
            batch.add(log_subject(ID), 1, payload)


def test_starts_are_in_the_order_of_the_log() -> None:
    ids = [f"0199d5f0-0000-7000-8000-00000000000{n}" for n in (5, 3, 9)]
    batch = batch_of([simple_log(one)[0] for one in ids])
    rows = batch.changes.tables["executions"]
    assert batch.starts() == {("default", "wf"): {one: rows[one,] for one in ids}}
    assert batch_of(simple_log(ID)[1:]).starts() == {}


def test_groups_and_plans_are_not_counted_and_children_of_another_workflow_are() -> None:
    first = simple_log(ID)[0]
    started = first.events[0]
    assert isinstance(started, ExecutionStarted)

    def starts(*, inline: bool) -> int:
        request = replace(started.request, parent=Parent(OTHER, "a", 1, OTHER, 1, inline=inline))
        log = [replace(first, events=(replace(started, request=request),))]
        return sum(len(rows) for rows in batch_of(log).starts().values())

    assert (starts(inline=True), starts(inline=False)) == (0, 1)


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_every_row_is_written_by_exactly_one_statement(seed: int) -> None:
    random = Random(seed)
    batch = batch_of(interleaved(random, [random_log(random) for _ in range(5)]))
    for name, rows in batch.changes.tables.items():
        table = TABLES[name]
        written = []
        for statement, arrays in sql.writes(table, rows):
            assert f"${len(arrays)}::" in statement
            assert f"${len(arrays) + 1}::" not in statement
            assert len({len(array) for array in arrays}) == 1
            written += list(zip(*arrays[: len(table.key)], strict=True))
        assert sorted(written) == sorted(rows)


def test_a_simple_execution_takes_few_statements() -> None:
    """Groups are what a batch costs: as many whether it holds one execution or hundreds."""
    ids = [f"0199d5f0-0000-7000-8000-{n:012}" for n in range(100)]
    batch = batch_of([transition for one in ids for transition in simple_log(one)])
    statements = [
        statement for name, rows in batch.changes.tables.items() for statement, _ in sql.writes(TABLES[name], rows)
    ]
    assert len(statements) == 4


def test_facts_are_kept_once_each() -> None:
    batch = FactBatch()
    subject = fact_subject(ID, "x")
    call = LlmCall(ID, "w", "wf", "a", 1, 1, "openai", "gpt", 10.0, 0.5, cost_usd=Decimal("0.1"))
    for fact in (call, call, StepStarted(ID, "a", 1, 10.0), StepStarted(ID, "a", 1, 11.0, None, "second")):
        batch.add(subject, 1, encode(fact))
    batch.add(subject, 1, encode(TokenDelta(ID, "a", 1, 1, "text", 10.0)))
    assert len(batch.llm_calls) == 1
    [start] = batch.attempt_starts.values()
    assert start[-1] == "second"


def test_an_impossible_time_in_a_fact_is_refused() -> None:
    with pytest.raises(MessageInvalid, match="impossible time"):
        FactBatch().add(fact_subject(ID, "x"), 1, encode(StepStarted(ID, "a", 1, 1e30)))
