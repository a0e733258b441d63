"""The api as a real HTTP server in the test's own loop, before a real NATS and a real Postgres."""

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
import pytest_asyncio

from millrace_api.bootstrap import Running, serve
from millrace_api.settings import ApiSettings
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.log_reader import read_last, read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import decode_request, encode
from millrace_shared.execution.tables import ATTEMPTS, EXECUTIONS, STEPS, Table
from millrace_shared.execution.view import ExecutionView
from millrace_shared.messages import (
    LOG_VERSION,
    Event,
    ExecutionFinished,
    ExecutionStarted,
    StartRequest,
    StepCompleted,
    StepScheduled,
    Transition,
)
from millrace_shared.postgres import connect as connect_database
from millrace_shared.postgres import migrate
from millrace_shared.testing import waiting
from millrace_shared.values import Payload

KEY = "test-bootstrap-key"
_names = itertools.count()


@dataclass
class Orchestrator:
    """Writes logs, as the orchestrator does, for the executions that a test tells it."""

    connection: Connection
    publisher: Publisher
    last: dict[str, tuple[int, int]] = field(default_factory=dict)
    transitions: dict[str, list[Transition]] = field(default_factory=dict)

    async def append(self, execution_id: str, *events: Event) -> Transition:
        """Append one transition."""
        version, sequence = self.last.get(execution_id, (0, 0))
        transition = Transition(LOG_VERSION, execution_id, version + 1, time.time(), events)
        message = Outgoing(subjects.log(execution_id), encode(transition), expected_last_sequence=sequence)
        ack = await self.publisher.publish(message)
        self.last[execution_id] = (version + 1, ack.seq)
        self.transitions.setdefault(execution_id, []).append(transition)
        return transition

    async def start(self, execution_id: str) -> None:
        """Append the first transition of an accepted execution."""
        stored = await read_last(self.connection, "INBOX", subjects.start(execution_id))
        assert stored is not None
        request = decode_request(stored.payload)
        started = ExecutionStarted(request, time.time() + 60)
        await self.append(execution_id, started, StepScheduled("greet", 1, input=request.input))

    async def finish(self, execution_id: str, output: Any = "hello") -> None:
        """Append the end of a one-step execution."""
        now = time.time()
        completed = StepCompleted(
            "greet", 1, output=Payload(data=output), started_at=now - 0.01, finished_at=now, runner="test"
        )
        await self.append(execution_id, completed)
        await self.append(execution_id, ExecutionFinished("completed", output=Payload(data={"said": output})))

    def view(self, execution_id: str) -> ExecutionView:
        """Return what the log shows."""
        return ExecutionView.fold(self.transitions[execution_id])


@dataclass
class Api:
    """A running api, with clients."""

    running: Running
    http: httpx.AsyncClient
    orchestrator: Orchestrator
    database: asyncpg.Connection

    @property
    def ws(self) -> str:
        """The WebSocket base URL."""
        return f"ws://127.0.0.1:{self.running.port}"

    async def workflow(self, **changes: Any) -> str:
        """Save a workflow with a name of its own; return the name."""
        name = f"workflow-{next(_names)}-{time.time_ns()}"
        definition = {
            "name": name,
            "inputs": {"who": {"type": "string", "maxLength": 200_000, "default": "world"}},
            "steps": {"greet": {"name": "Say hello", "transform": "hello ${{ inputs.who }}"}},
            **changes,
        }
        answer = await self.http.post("/api/v1/workflows", content=msgspec.json.encode(definition))
        assert answer.status_code == 201, answer.text
        return name

    async def execution(self, workflow: str, **fields: Any) -> str:
        """Start an execution; return its id."""
        answer = await self.http.post("/api/v1/executions", json={"workflow": workflow, **fields})
        assert answer.status_code == 202, answer.text
        execution_id: str = answer.json()["execution_id"]
        return execution_id

    def fresh(self, kind: str) -> str:
        """Return a name that nothing has."""
        return f"{kind}-{next(_names)}-{time.time_ns()}"

    async def accepting(self, **inputs: Any) -> str:
        """Save a workflow with these inputs; return its name."""
        return await self.workflow(inputs=inputs, steps={"greet": {"transform": "hello"}})

    async def trigger(self, workflow: str, kind: str, **fields: Any) -> dict[str, Any]:
        """Save a trigger; return it as the answer shows it."""
        body = {"name": self.fresh(kind), "kind": kind, "workflow": workflow, **fields}
        answer = await self.http.post("/api/v1/triggers", json=body)
        assert answer.status_code == 201, answer.text
        saved: dict[str, Any] = answer.json()
        return saved

    async def shown(self, trigger: dict[str, Any]) -> dict[str, Any]:
        """Return a trigger as it is now."""
        found: dict[str, Any] = (await self.http.get(f"/api/v1/triggers/{trigger['id']}")).json()
        return found

    async def started(self, trigger: dict[str, Any]) -> list[StartRequest]:
        """Return the requests that a trigger has made."""
        found = []
        async for stored in read_subject(self.orchestrator.connection, "INBOX", "in.*.*.start"):
            request = decode_request(stored.payload)
            if request.origin is not None and request.origin.trigger_id == trigger["id"]:
                found.append(request)
        return found

    async def publish_event(self, name: str, payload: bytes, **headers: str) -> int:
        """Publish an event, as another service does; return its sequence."""
        message = Outgoing(subjects.trigger_event("default", name), payload, extra=headers)
        return (await self.orchestrator.publisher.publish(message)).seq

    async def project(self, view: ExecutionView, **changes: Any) -> None:
        """Write an execution's rows, as telemetry does."""
        assert view.execution is not None
        await self._write(EXECUTIONS, {**view.execution, **changes})
        for row in view.steps:
            await self._write(STEPS, row)
        for row in view.attempts:
            await self._write(ATTEMPTS, row)

    async def _write(self, table: Table, row: dict[str, Any]) -> None:
        names = [name for name, column in table.columns.items() if column.rule != "derived"]
        values = [
            msgspec.json.encode(row[name]).decode()
            if table.columns[name].type in ("json", "jsonb") and row[name] is not None
            else row[name]
            for name in names
        ]
        places = ", ".join(f"${number}" for number in range(1, len(names) + 1))
        key = ", ".join(table.key)
        update = ", ".join(f"{name} = excluded.{name}" for name in names)
        await self.database.execute(
            f"INSERT INTO telemetry.{table.name} ({', '.join(names)}) VALUES ({places}) "
            f"ON CONFLICT ({key}) DO UPDATE SET {update}",
            *values,
        )


@asynccontextmanager
async def running_api(
    nats_url: str, database_url: str, directory: Path, *, projected: bool = True
) -> AsyncIterator[Api]:
    """Run an api; with the telemetry service's tables when `projected`."""
    settings = ApiSettings.load(
        {
            "MILLRACE_NATS_URL": nats_url,
            "MILLRACE_DATABASE_URL": database_url,
            "MILLRACE_DATA_DIR": str(directory),
            "MILLRACE_API_KEY": KEY,
            "MILLRACE_API_PORT": "0",
            "MILLRACE_API_DRAIN_S": "1",
        }
    )
    database = await connect_database(database_url, application_name="test")
    if projected:
        await migrate(database, "telemetry", "millrace_telemetry")
    connection = await connect(nats_url, "test")
    try:
        async with serve(settings) as running:
            base = f"http://127.0.0.1:{running.port}"
            headers = {"Authorization": f"Bearer {KEY}"}
            async with httpx.AsyncClient(base_url=base, headers=headers, timeout=30, trust_env=False) as http:
                publisher = await Publisher(connection).start()
                yield Api(running, http, Orchestrator(connection, publisher), database)
    finally:
        await connection.close()
        await database.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(nats_url: str, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """An api with the projection's tables, shared by the tests of a module: each saves workflows of its own."""
    async with running_api(nats_url, database_url, tmp_path_factory.mktemp("api")) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def workflow(api: Api) -> str:
    """A workflow that takes anything as `what`."""
    return await api.accepting(what={"default": None})


@pytest.fixture
def start_api(nats_url: str, database_url: str, tmp_path: Path) -> Callable[[], AbstractAsyncContextManager[Api]]:
    """Start another api on the same servers."""
    return lambda: running_api(nats_url, database_url, tmp_path)


@pytest.fixture
def start_api_on(fresh_database_url: str, tmp_path: Path) -> Callable[[str], AbstractAsyncContextManager[Api]]:
    """Start an api on a NATS server of the test's own."""
    return lambda nats_url: running_api(nats_url, fresh_database_url, tmp_path)


@pytest.fixture
def api_on(tmp_path: Path) -> Callable[[str, str], AbstractAsyncContextManager[Api]]:
    """Start an api on servers of the test's own."""
    return lambda nats_url, database_url: running_api(nats_url, database_url, tmp_path)


@pytest_asyncio.fixture(loop_scope="module")
async def lonely_api(nats_url: str, fresh_database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    """An api where no telemetry service has ever run."""
    async with running_api(nats_url, fresh_database_url, tmp_path, projected=False) as started:
        yield started


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """See `millrace_shared.testing.waiting`."""
    return waiting.eventually
