"""Real servers, and what the tests of the projection need of them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from millrace.embedded import BackgroundStack
from millrace_shared import postgres, subjects
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.log_reader import read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.streams import ensure_streams
from millrace_shared.codec import encode
from millrace_shared.execution import projection
from millrace_shared.execution.tables import TABLES
from millrace_shared.execution.view import ExecutionView
from millrace_shared.messages import DeadLetter, Transition
from millrace_shared.testing import waiting
from millrace_telemetry.bootstrap import prepare_schema
from millrace_telemetry.settings import TelemetrySettings


@dataclass
class Tables:
    """The telemetry schema as a reader sees it."""

    pool: postgres.Pool

    async def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a projected table, in the order of its key."""
        columns, key = TABLES[table].columns, TABLES[table].key
        records = await self.pool.fetch(f"SELECT {', '.join(columns)} FROM telemetry.{table} ORDER BY {', '.join(key)}")
        return [dict(record) for record in records]

    async def every_row(self) -> dict[str, list[dict[str, Any]]]:
        """All rows of all projected tables."""
        return {name: await self.rows(name) for name in TABLES}

    async def offset(self, stream: str = "EVENTS") -> int:
        """How far a stream is projected."""
        sequence: int = await self.pool.fetchval("SELECT sequence FROM telemetry.offsets WHERE stream = $1", stream)
        return sequence

    async def reach(self, sequence: int, stream: str = "EVENTS") -> None:
        """Wait until `stream` is projected up to `sequence`."""

        async def reached() -> bool:
            return await self.offset(stream) >= sequence

        await waiting.eventually(reached, f"{stream} projected up to {sequence}")

    async def assert_show(self, log: Sequence[Transition]) -> None:
        """Every table holds exactly what the fold of `log` gives, execution numbers included."""
        expected = expected_rows(log)
        found = await self.every_row()
        for row in found["transitions"]:
            row["stream_sequence"] = 0
        assert found == expected


def expected_rows(log: Sequence[Transition]) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table after `log`, by `ExecutionView`, in the order of their keys."""
    views: dict[str, ExecutionView] = {}
    numbers: dict[str, int] = {}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for transition in log:
        stored = projection.decode(encode(transition))
        new = stored.execution_id not in views
        view = views.setdefault(stored.execution_id, ExecutionView())
        view.apply(stored)
        execution = view.execution
        assert execution is not None
        if new and not execution["inline"]:
            numbers[execution["workflow_id"]] = numbers.get(execution["workflow_id"], 0) + 1
            execution["execution_number"] = numbers[execution["workflow_id"]]
        change = projection.changes(stored, 0)[-1]
        row = {"execution_id": stored.execution_id, "version": stored.version, **change.set}
        row["events"] = msgspec.json.decode(encode(change.set["events"]))
        rows["transitions"].append(row)
    for view in views.values():
        assert view.execution is not None
        rows["executions"].append(view.execution)
        rows["steps"] += view.steps
        rows["attempts"] += view.attempts
    return {
        name: sorted(rows[name], key=lambda row, key=table.key: [row[column] for column in key])  # type: ignore[misc]
        for name, table in TABLES.items()
    }


@pytest.fixture
def settings(fresh_nats: BackgroundStack, fresh_database_url: str) -> TelemetrySettings:
    """Settings for servers that nobody has used."""
    return TelemetrySettings(nats_url=SecretStr(fresh_nats.nats_url), database_url=SecretStr(fresh_database_url))


@pytest.fixture
async def tables(fresh_database_url: str, settings: TelemetrySettings) -> AsyncIterator[Tables]:
    """The migrated schema."""
    await prepare_schema(settings)
    pool = await postgres.create_pool(fresh_database_url, max_size=3, application_name="test")
    yield Tables(pool)
    await pool.close()


@pytest.fixture
def tables_of() -> Callable[[str], Awaitable[Tables]]:
    """Opens the tables of a database whose service migrates it. Close `pool` after use."""

    async def open_tables(database_url: str) -> Tables:
        return Tables(await postgres.create_pool(database_url, max_size=3, application_name="test"))

    return open_tables


@pytest.fixture
async def bus(fresh_nats: BackgroundStack) -> AsyncIterator[Connection]:
    """A connection to NATS, with every stream."""
    connection = await connect(fresh_nats.nats_url, "test")
    await ensure_streams(connection)
    yield connection
    await connection.close()


@pytest.fixture
async def publisher(bus: Connection) -> Publisher:
    """Publishes on `bus`."""
    return await Publisher(bus).start()


Append = Callable[[Sequence[Transition]], Awaitable[int]]


@pytest.fixture
def append(publisher: Publisher) -> Append:
    """Appends transitions to EVENTS; returns the last one's stream sequence."""

    async def append(log: Sequence[Transition]) -> int:
        results = await publisher.publish_all([Outgoing(subjects.log(one.execution_id), encode(one)) for one in log])
        last = results[-1]
        assert isinstance(last, int), last
        return last

    return append


@pytest.fixture
def metric() -> Callable[..., float]:
    """What this process counts of the projection of a stream."""

    def value(name: str, stream: str = "EVENTS") -> float:
        return REGISTRY.get_sample_value(f"millrace_projection_{name}", {"stream": stream}) or 0.0

    return value


@pytest.fixture
def expire(bus: Connection) -> Callable[[Iterable[Sequence[Transition]]], Awaitable[None]]:
    """Removes whole logs, as retention does."""

    async def remove(logs: Iterable[Sequence[Transition]]) -> None:
        for one in logs:
            await bus.jetstream_api("STREAM.PURGE.EVENTS", {"filter": subjects.log(one[0].execution_id)})

    return remove


@pytest.fixture
def dead_letters(bus: Connection) -> Callable[[str], Awaitable[list[DeadLetter]]]:
    """Reads what of a stream was buried."""

    async def read(stream: str) -> list[DeadLetter]:
        found = read_subject(bus, "DEAD", subjects.dead(stream))
        return [msgspec.json.decode(stored.payload, type=DeadLetter) async for stored in found]

    return read


@pytest.fixture
def eventually() -> Callable[[Callable[[], Awaitable[bool]], str], Awaitable[bool]]:
    """See `millrace_shared.testing.waiting`."""
    return waiting.eventually
