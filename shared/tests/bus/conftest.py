"""A connection, a publisher and streams of the test's own on a real server."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.streams import ensure_streams
from millrace_shared.testing import waiting

Eventually = Callable[[Callable[[], bool]], Awaitable[Any]]
MakeStream = Callable[..., Awaitable[str]]
Store = Callable[..., Awaitable[list[int]]]


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Connection]:
    connection = await connect(nats_url, "tests")
    yield connection
    await connection.close()


@pytest.fixture
async def other_bus(nats_url: str) -> AsyncIterator[Connection]:
    connection = await connect(nats_url, "tests, another process")
    yield connection
    await connection.close()


@pytest.fixture
async def product_bus(fresh_nats_url: str) -> AsyncIterator[Connection]:
    """A connection to a server of the test's own that holds the product's streams."""
    connection = await connect(fresh_nats_url, "tests")
    await ensure_streams(connection)
    yield connection
    await connection.close()


@pytest.fixture
async def publisher(bus: Connection) -> Publisher:
    return await Publisher(bus).start()


@pytest.fixture
def eventually() -> Eventually:
    """See `millrace_shared.testing.waiting`."""
    return waiting.eventually


@pytest.fixture
def make_stream(bus: Connection) -> MakeStream:
    """Creates a stream of a new name, which listens on `<name>.>`."""

    async def make(**options: Any) -> str:
        name = f"S{uuid.uuid4().hex}"
        config = {"name": name, "subjects": [f"{name}.>"], "allow_atomic": True, "allow_direct": True, **options}
        await bus.jetstream_api(f"STREAM.CREATE.{name}", config)
        return name

    return make


@pytest.fixture
async def stream(make_stream: MakeStream) -> str:
    return await make_stream()


@pytest.fixture
def store(publisher: Publisher) -> Store:
    """Stores messages, numbered by their payload from 0; returns their sequences."""

    async def publish(subject: str, count: int, begin: int = 0) -> list[int]:
        results = await publisher.publish_all([Outgoing(subject, b"%d" % n) for n in range(begin, begin + count)])
        assert all(isinstance(result, int) for result in results), results
        return [result for result in results if isinstance(result, int)]

    return publish


@pytest.fixture
async def messages_of(bus: Connection) -> Callable[[str], Awaitable[int]]:
    """How many messages a stream holds."""

    async def count(stream: str) -> int:
        return int((await bus.jetstream_api(f"STREAM.INFO.{stream}"))["state"]["messages"])

    return count
