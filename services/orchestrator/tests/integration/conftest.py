"""Orchestrators on a real NATS server; the test plays the api and the runners."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from millrace.embedded import BackgroundStack
from millrace_orchestrator.adapters.gatekeeper import Gatekeeper
from millrace_orchestrator.bootstrap import orchestrator
from millrace_orchestrator.engine import Engine
from millrace_orchestrator.settings import OrchestratorSettings
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.log_reader import Stored, read_log, read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.streams import NANOSECONDS, STREAMS, ensure_streams
from millrace_shared.codec import decode_inbox, decode_transition, decode_work, encode
from millrace_shared.definition.canonical import canonical_json, content_hash
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.ids import attempt_key, new_id, partition_of
from millrace_shared.messages import (
    Admission,
    CancelRequest,
    ErrorInfo,
    Event,
    ExecutionFinished,
    RunStep,
    StartRequest,
    StepResult,
    Transition,
)
from millrace_shared.testing.services import ServiceProcess
from millrace_shared.testing.waiting import eventually
from millrace_shared.values import Payload

RUNNER_TIMES = (1.0, 2.0)


class Bus:
    """The bus as a test sees it: accepts executions, performs work, and looks at what came of it."""

    def __init__(self, connection: Connection, publisher: Publisher) -> None:
        self.connection = connection
        self.publisher = publisher
        self._probes = itertools.count()

    eventually = staticmethod(eventually)

    async def define(self, steps: dict[str, Any], **rest: Any) -> str:
        """Store a definition; return its hash."""
        canonical = canonical_json(WorkflowDefinition.model_validate({"name": "wf", "steps": steps, **rest}))
        await self.publisher.publish(Outgoing(subjects.definition(content_hash(canonical)), canonical))
        return content_hash(canonical)

    def request(self, definition: str, data: Any = None, execution_id: str = "") -> StartRequest:
        identity = execution_id or new_id()
        return StartRequest(identity, "default", "wf-1", "wf", 3, definition, 1.0, Payload(data or {}))

    async def start(self, definition: str, data: Any = None, execution_id: str = "") -> str:
        """Accept an execution; return its id."""
        request = self.request(definition, data, execution_id)
        await self.publisher.publish(Outgoing(subjects.start(request.execution_id), encode(request)))
        return request.execution_id

    async def send(self, execution_id: str, *messages: Any) -> None:
        for message in messages:
            await self.publisher.publish(Outgoing(subjects.inbox(execution_id), encode(message)))

    async def cancel(self, execution_id: str, request_id: str = "c1") -> None:
        await self.send(execution_id, CancelRequest(execution_id, request_id, "enough"))

    def result(self, step: RunStep, output: Any = None, error: str | None = None) -> StepResult:
        payload = output if isinstance(output, Payload) else Payload(output)
        failure = None if error is None else ErrorInfo("broken", error, "it broke")
        times = RUNNER_TIMES
        return StepResult(step.execution_id, step.step, step.attempt, *times, step.item, payload, failure)

    async def queued(self, execution_id: str) -> dict[str, RunStep]:
        """What the execution has in WORK, by attempt key."""
        found = [one async for one in read_subject(self.connection, "WORK", subjects.work_of_execution(execution_id))]
        return {one.subject.rsplit(".", 1)[1]: decode_work(one.payload) for one in found}

    async def has_queued(self, execution_id: str, *keys: str) -> dict[str, RunStep]:
        """Wait until WORK holds exactly these attempts of the execution."""

        async def look() -> Any:
            queued = await self.queued(execution_id)
            return (queued,) if set(queued) == set(keys) else None

        return (await self.eventually(look, f"{keys} in WORK"))[0]

    async def take(self, execution_id: str, step: str, item: int | None = None, attempt: int = 1) -> RunStep:
        """Take an attempt from WORK, as a runner does, once it is there."""
        key = attempt_key(step, item, attempt)

        async def look() -> RunStep | None:
            return (await self.queued(execution_id)).get(key)

        work: RunStep = await self.eventually(look, f"{key} in WORK")
        subject = subjects.work("*", "*", execution_id, key)
        await self.connection.jetstream_api("STREAM.PURGE.WORK", {"filter": subject})
        return work

    async def perform(
        self, execution_id: str, step: str, output: Any = None, item: int | None = None, attempt: int = 1
    ) -> None:
        """Take an attempt and send its output."""
        await self.send(execution_id, self.result(await self.take(execution_id, step, item, attempt), output))

    async def fail(self, execution_id: str, step: str, category: str = "server_error", attempt: int = 1) -> None:
        """Take an attempt and have it fail."""
        work = await self.take(execution_id, step, None, attempt)
        await self.send(execution_id, self.result(work, error=category))

    async def log(self, execution_id: str) -> list[Transition]:
        return [decode_transition(stored.payload) for stored in await read_log(self.connection, execution_id)]

    async def events(self, execution_id: str) -> list[Event]:
        return [event for transition in await self.log(execution_id) for event in transition.events]

    async def event(self, execution_id: str, kind: type, count: int = 1) -> Any:
        """Wait for the `count`th event of a kind."""

        async def look() -> Any:
            found = [event for event in await self.events(execution_id) if isinstance(event, kind)]
            return found[count - 1] if len(found) >= count else None

        return await self.eventually(look, f"{kind.__name__} number {count} of {execution_id}")

    async def ended(self, execution_id: str) -> ExecutionFinished:
        """Wait for the end."""
        finished: ExecutionFinished = await self.event(execution_id, ExecutionFinished)
        return finished

    async def stored(self, stream: str, subject: str = ">") -> list[Stored]:
        return [one async for one in read_subject(self.connection, stream, subject)]

    async def consumer(self, execution_id: str) -> dict[str, Any]:
        """Return the state of the durable that delivers the execution's inbox."""
        return await self.connection.jetstream_api(f"CONSUMER.INFO.INBOX.inbox-{partition_of(execution_id)}")

    async def unacknowledged(self, execution_id: str, count: int) -> None:
        """Wait until exactly so many messages of the partition are delivered or waiting, and not acknowledged."""

        async def look() -> bool:
            info = await self.consumer(execution_id)
            return bool(info["num_ack_pending"] == count and info["num_pending"] == 0)

        await self.eventually(look, f"{count} messages unacknowledged")

    async def redeliver_after(self, seconds: float) -> None:
        """Have all unacknowledged inbox messages come again this often."""
        for partition in range(16):
            name = f"inbox-{partition}"
            config = (await self.connection.jetstream_api(f"CONSUMER.INFO.INBOX.{name}"))["config"]
            config["backoff"] = [int(seconds * NANOSECONDS)]
            config["ack_wait"] = config["backoff"][0]
            await self.connection.jetstream_api(
                f"CONSUMER.DURABLE.CREATE.INBOX.{name}", {"stream_name": "INBOX", "config": config}
            )

    async def lose_work(self) -> None:
        """Empty WORK, and have the server forget what it has seen there, as after a crash of it."""
        stream = next(one for one in STREAMS if one.name == "WORK")
        await self.connection.jetstream_api(
            "STREAM.UPDATE.WORK", {**stream.config(1), "duplicate_window": NANOSECONDS // 10}
        )
        await self.connection.jetstream_api("STREAM.PURGE.WORK")
        await self.duplicates_forgotten()
        await self.connection.jetstream_api("STREAM.PURGE.WORK")

    async def duplicates_forgotten(self) -> None:
        """Wait until WORK has forgotten the ids of all messages that it has got until now."""
        probe = next(self._probes)

        async def look() -> bool:
            subject = subjects.work("http", "low", f"probe-{next(self._probes)}", "a@1")
            ack = await self.publisher.publish(Outgoing(subject, b"{}", message_id=f"probe-{probe}"))
            return not ack.duplicate

        assert await look()
        await self.eventually(look, "the window for duplicates to pass")


@pytest.fixture
async def bus(fresh_nats: BackgroundStack) -> AsyncIterator[Bus]:
    """The bus, with every stream."""
    connection = await connect(fresh_nats.nats_url, "test")
    await ensure_streams(connection)
    yield Bus(connection, await Publisher(connection).start())
    await connection.close()


Start = Callable[..., Awaitable[Engine]]


@pytest.fixture
async def start_engine(bus: Bus, fresh_nats: BackgroundStack, tmp_path: Path) -> AsyncIterator[Start]:
    """Start an orchestrator in this process; `engine.leave` (an attribute of the test's) stops it before the end."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Engine:
            known = {"nats_url": SecretStr(fresh_nats.nats_url), "data_dir": tmp_path}
            own = await stack.enter_async_context(AsyncExitStack())
            engine = await own.enter_async_context(orchestrator(OrchestratorSettings(**known, **settings)))
            _stops[id(engine)] = own
            return engine

        yield start
    _stops.clear()


_stops: dict[int, AsyncExitStack] = {}


@pytest.fixture
def stop_engine() -> Callable[[Engine], Awaitable[None]]:
    """Stop an orchestrator that `start_engine` started."""

    async def stop(engine: Engine) -> None:
        await _stops.pop(id(engine)).aclose()

    return stop


@pytest.fixture
async def start_process(
    fresh_nats: BackgroundStack, tmp_path: Path
) -> AsyncIterator[Callable[[], Awaitable[ServiceProcess]]]:
    """Start a real process, and wait until it is ready. What is left at the end is killed."""
    started: list[ServiceProcess] = []

    async def start() -> ServiceProcess:
        known = {"MILLRACE_NATS_URL": fresh_nats.nats_url, "MILLRACE_DATA_DIR": str(tmp_path)}
        started.append(await ServiceProcess.start("millrace_orchestrator", **known))
        await started[-1].line("is ready")
        return started[-1]

    yield start
    for one in started:
        await one.kill()


@pytest.fixture
def partition_ids() -> Callable[[int], Iterator[str]]:
    """Yields execution ids of one partition."""

    def ids(partition: int) -> Iterator[str]:
        return (one for one in iter(new_id, "") if partition_of(one) == partition)

    return ids


class Inbox:
    """What executions were told, in order, read from the stream itself."""

    def __init__(self, bus: Any) -> None:
        self._bus = bus
        self._next = 1
        self.told: list[Any] = []

    async def read(self) -> list[Any]:
        """Return what was not read before."""
        new = []
        async for stored in read_subject(self._bus.connection, "INBOX", "in.*.*", self._next):
            self._next = stored.sequence + 1
            new.append(decode_inbox(stored.payload))
        self.told += new
        return new

    async def admitted(self) -> list[str]:
        await self.read()
        return [one.execution_id for one in self.told if isinstance(one, Admission) and one.admitted]

    async def refused(self) -> list[str]:
        await self.read()
        return [one.execution_id for one in self.told if isinstance(one, Admission) and not one.admitted]

    async def cancelled(self) -> list[str]:
        await self.read()
        return [one.execution_id for one in self.told if isinstance(one, CancelRequest)]

    async def has_admitted(self, *execution_ids: str) -> None:
        async def look() -> bool:
            return await self.admitted() == list(execution_ids)

        await self._bus.eventually(look, f"{len(execution_ids)} admitted")


@pytest.fixture
def inbox(bus: Any) -> Inbox:
    return Inbox(bus)


@pytest.fixture
async def new_keeper(bus: Any) -> Any:
    keepers = []

    async def make(publisher: Publisher | None = None) -> Gatekeeper:
        keepers.append(Gatekeeper(bus.connection, publisher or bus.publisher))
        return keepers[-1]

    yield make
    for one in keepers:
        await one.stop()


@pytest.fixture
async def keeper(new_keeper: Any) -> Any:
    return await new_keeper()
