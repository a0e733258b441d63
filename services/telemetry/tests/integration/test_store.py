"""Batches in the real tables: the same rows as the view, once each, whoever writes."""

from random import Random
from typing import Any

import pytest

from millrace_shared import postgres
from millrace_shared.codec import encode
from millrace_shared.execution.tables import TABLES
from millrace_shared.messages import StepCompleted, Transition
from millrace_shared.subjects import log as log_subject
from millrace_shared.testing.logs import counts, interleaved, random_log, simple_log
from millrace_shared.values import Payload
from millrace_telemetry.adapters.store import Offset, Store
from millrace_telemetry.domain.batch import LogBatch
from millrace_telemetry.errors import OffsetMoved, ValueRefused
from millrace_telemetry.settings import TelemetrySettings

ID = "0199d5f0-0000-7000-8000-000000000001"


def batch_of(log: list[Transition], first_sequence: int = 1) -> LogBatch:
    batch = LogBatch()
    for sequence, transition in enumerate(log, first_sequence):
        batch.add(log_subject(transition.execution_id), sequence, encode(transition))
    return batch


@pytest.fixture
async def store(settings: TelemetrySettings, tables: Any) -> Any:
    store = await Store.open(settings.database_url.get_secret_value(), "EVENTS")
    yield store
    await store.close()


async def test_the_migrated_tables_are_those_of_the_projection(tables: Any) -> None:
    for name, table in TABLES.items():
        records = await tables.pool.fetch(
            "SELECT column_name, data_type, udt_name FROM information_schema.columns "
            "WHERE table_schema = 'telemetry' AND table_name = $1 ORDER BY ordinal_position",
            name,
        )
        short = {"timestamp with time zone": "timestamptz"}
        found = {record[0]: short.get(record[1], record[1]) for record in records}
        assert found == {column: spec.type for column, spec in table.columns.items()}, name
        key = await tables.pool.fetch(
            "SELECT a.attname FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, position) "
            "JOIN pg_attribute a ON a.attnum = k.attnum "
            "WHERE i.indrelid = $1::regclass AND a.attrelid = i.indrelid AND i.indisprimary ORDER BY k.position",
            f"telemetry.{name}",
        )
        assert tuple(record[0] for record in key) == table.key


async def test_rows_of_the_first_version_keep_their_status(fresh_database_url: str) -> None:
    connection = await postgres.connect(fresh_database_url, application_name="test")
    try:
        first = postgres.migrations_of("millrace_telemetry")[0]
        await connection.execute("CREATE SCHEMA telemetry")
        await connection.execute(first.sql.replace(":schema:", "telemetry"))
        statuses = ["running", "completed", "failed", "cancelled", "timeout"]
        await connection.executemany(
            "INSERT INTO telemetry.executions (id, status) VALUES ($1, $1)", [(status,) for status in statuses]
        )
        await connection.execute(
            "CREATE TABLE telemetry.migrations (number integer PRIMARY KEY, name text NOT NULL, "
            "checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        await connection.execute(
            "INSERT INTO telemetry.migrations VALUES ($1, $2, $3)", first.number, first.name, first.checksum
        )
        assert await postgres.migrate(connection, "telemetry", "millrace_telemetry")
        rows = await connection.fetch("SELECT id, status, final_status FROM telemetry.executions")
    finally:
        await connection.close()
    found = {row["id"]: (row["status"], row["final_status"]) for row in rows}
    assert found == {status: (status, None if status == "running" else status) for status in statuses}


async def test_defaults_in_sql_are_those_of_the_projection(tables: Any) -> None:
    for name, table in TABLES.items():
        key = tuple("k" if table.columns[column].type == "text" else 7 for column in table.key)
        marks = ", ".join(f"${n}" for n in range(1, len(key) + 1))
        await tables.pool.execute(f"INSERT INTO telemetry.{name} ({', '.join(table.key)}) VALUES ({marks})", *key)
        assert await tables.rows(name) == [table.new_row(key)]


@pytest.mark.parametrize("seed", range(6))
async def test_rows_are_those_of_the_view_wherever_batches_are_cut(store: Store, tables: Any, seed: int) -> None:
    random = Random(seed)
    log = interleaved(random, [random_log(random) for _ in range(12)])
    offset, position = Offset(), 0
    while position < len(log):
        part = log[position : position + random.randrange(1, 30)]
        new = Offset(position + len(part), "ev.0.x")
        await store.write(batch_of(part, position + 1), offset, new)
        offset, position = new, new.sequence
    await tables.assert_show(log)
    found = await store.counts()
    assert {name: found[name] for name in ("executions", "steps")} == counts(log)
    assert found["rows"]["transitions"] == len(log)


async def test_of_two_writers_of_one_batch_one_loses_and_nothing_is_doubled(
    store: Store, tables: Any, settings: TelemetrySettings
) -> None:
    log = simple_log(ID)
    other = await Store.open(settings.database_url.get_secret_value(), "EVENTS")
    try:
        assert await store.offset() == await other.offset() == Offset()
        await store.write(batch_of(log), Offset(), Offset(4, "s"))
        with pytest.raises(OffsetMoved, match="no longer 0"):
            await other.write(batch_of(log), Offset(), Offset(4, "s"))
        assert await other.offset() == Offset(4, "s")
    finally:
        await other.close()
    await tables.assert_show(log)


async def test_a_refused_value_leaves_nothing_of_its_batch(store: Store, tables: Any) -> None:
    too_large = Transition(1, ID, 5, 1.0, (StepCompleted("a", 2**40),))
    with pytest.raises(ValueRefused, match="refuses a value"):
        await store.write(batch_of([*simple_log(ID), too_large]), Offset(), Offset(5, "s"))
    assert await store.offset() == Offset()
    assert await tables.rows("executions") == []
    await store.write(batch_of(simple_log(ID)), Offset(), Offset(4, "s"))  # the connection is as good as before
    await tables.assert_show(simple_log(ID))


async def test_the_same_rows_stand_after_an_execution_is_replayed(store: Store, tables: Any) -> None:
    random = Random(7)
    log = interleaved(random, [random_log(random) for _ in range(5)])
    await store.write(batch_of(log), Offset(), Offset(len(log), "s"))
    before = await tables.every_row()
    await store.reset()
    assert await store.offset() == Offset()
    assert not any((await tables.every_row()).values())
    await store.write(batch_of(log), Offset(), Offset(len(log), "s"))
    assert await tables.every_row() == before


async def test_values_keep_the_order_of_their_keys(store: Store, tables: Any) -> None:
    value = {"z": 1, "a": {"y": 2, "b": 3}}
    done = Transition(1, ID, 2, 2.0, (StepCompleted("a", 1, output=Payload(value)),))
    await store.write(batch_of([done]), Offset(), Offset(1, "s"))
    output = await tables.pool.fetchval("SELECT output FROM telemetry.steps")
    assert list(output["data"]) == ["z", "a"]
    assert list(output["data"]["a"]) == ["y", "b"]
