import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from millrace_agent_runner.adapters.cache import ResultCache
from millrace_agent_runner.adapters.facts import Facts
from millrace_agent_runner.adapters.worker import Worker
from millrace_agent_runner.domain.perform import Performer
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads
from millrace_shared import subjects
from millrace_shared.blobs import Blobs
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.log_reader import read_last, read_subject
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.streams import NANOSECONDS, ensure_consumer, ensure_streams, work_consumer
from millrace_shared.codec import decode_inbox, encode
from millrace_shared.ids import attempt_key
from millrace_shared.lanes import LANES, Lane
from millrace_shared.messages import WORK_KINDS, RunStep, StepResult
from millrace_shared.testing.services import ServiceProcess, http_get
from millrace_shared.testing.waiting import eventually


class Bus:
    """The bus as a test sees it: offers work, and looks at what came of it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    eventually = staticmethod(eventually)

    async def offer(self, *steps: RunStep, lane: Lane = "normal") -> None:
        for step in steps:
            message = self.message(step, lane)
            await self.offer_raw(message.subject, message.payload)

    @staticmethod
    def message(step: RunStep, lane: Lane = "normal") -> Outgoing:
        """Return work as the orchestrator queues it."""
        key = attempt_key(step.step, step.item, step.attempt)
        return Outgoing(subjects.work(step.kind, lane, step.execution_id, key), encode(step))

    async def offer_raw(self, subject: str, payload: bytes) -> None:
        answer = await self.connection.ask(subject, payload)
        assert b'"error"' not in answer, answer

    async def result_of(self, step: RunStep) -> StepResult:
        async def look() -> Any:
            return await read_last(self.connection, "INBOX", subjects.inbox(step.execution_id))

        stored = await self.eventually(look, f"the result of {step.step}")
        result = decode_inbox(stored.payload)
        assert isinstance(result, StepResult)
        return result

    async def count(self, stream: str) -> int:
        return int((await self.connection.jetstream_api(f"STREAM.INFO.{stream}"))["state"]["messages"])

    async def has(self, stream: str, count: int) -> None:
        async def look() -> bool:
            return await self.count(stream) == count

        await self.eventually(look, f"{count} messages in {stream}")

    async def stored(self, stream: str, subject: str) -> list[Any]:
        return [one async for one in read_subject(self.connection, stream, subject)]

    async def consumers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.connection.jetstream_api("CONSUMER.LIST.WORK"))["consumers"]
        return found

    async def ack_within(self, seconds: float) -> None:
        """Shorten the time after which unacknowledged work comes again."""
        for kind in WORK_KINDS:
            for lane in LANES:
                config = {**work_consumer(kind, lane), "ack_wait": int(seconds * NANOSECONDS)}
                await ensure_consumer(self.connection, "WORK", config)


@pytest.fixture
async def bus(fresh_nats_url: str) -> AsyncIterator[Bus]:
    connection = await connect(fresh_nats_url, "test")
    await ensure_streams(connection)
    yield Bus(connection)
    await connection.close()


@pytest.fixture
def bus_on() -> Callable[[Connection], Bus]:
    return Bus


@pytest.fixture
def python_executor() -> PythonExecutor:
    return PythonExecutor(Functions(()), Threads(4))


@pytest.fixture
async def start_worker(fresh_nats_url: str, tmp_path: Any, python_executor: PythonExecutor) -> AsyncIterator[Any]:
    """Starts workers on connections of their own; stops those that still run at the end."""
    running: list[tuple[Worker, Connection]] = []

    async def start(
        executor: Any = None, publisher: Callable[[Connection], Publisher] = Publisher, **options: Any
    ) -> Worker:
        connection = await connect(fresh_nats_url, "runner")
        started = await publisher(connection).start()
        use = executor or python_executor
        executors = {"python": use, "http": use, "agent": use}
        performer = Performer(
            executors, Blobs(f"file://{tmp_path}/blobs"), ResultCache(connection), lambda _: None, "runner-1"
        )
        settings = {"slots": 16, "grace_s": 5.0, "runner": "runner-1", **options}
        worker = Worker(connection, started, performer, Facts(connection, started), **settings)
        await worker.start()
        running.append((worker, connection))
        return worker

    yield start
    for worker, connection in running:
        await worker.stop()
        await connection.close()


class Runner(ServiceProcess):
    """A real runner process."""

    async def port(self) -> int:
        """Where it answers operators; it says so while it starts."""
        return int(re.findall(r"port (\d+)", await self.line("operations on port"))[0])


@pytest.fixture
async def start_runner(fresh_nats_url: str, tmp_path: Any) -> AsyncIterator[Any]:
    started: list[Runner] = []

    async def start(**environment: str) -> Runner:
        known = {"MILLRACE_NATS_URL": fresh_nats_url, "MILLRACE_DATA_DIR": str(tmp_path), **environment}
        started.append(await Runner.start("millrace_agent_runner", **known))
        return started[-1]

    yield start
    for runner in started:
        await runner.kill()


@pytest.fixture(name="http_get")
def http_get_fixture() -> Any:
    return http_get


@pytest.fixture
def metrics_of() -> Any:
    async def metrics(port: int) -> str:
        return str((await http_get(port, "/metrics"))[1])

    return metrics
