"""Real servers for every test, started once per session and only when a test asks for them.

The embedded NATS and PostgreSQL run with `durability="interval"`: no test here pulls the plug, and what
`fsync` adds is waiting. Tests of durability start a stack of their own. With MILLRACE_TEST_BACKEND=containers
the same fixtures are backed by the official images, where there is a Docker engine.
"""

import asyncio
import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest

from millrace.embedded import BackgroundStack, EmbeddedStack

# A job that a shell starts in the background ignores Ctrl-C, and so do all processes that it starts. Tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about the code; speed belongs in benchmarks/.
hypothesis.settings.register_profile("millrace", deadline=None)
hypothesis.settings.load_profile("millrace")

NATS_IMAGE = "nats:2.15.1"
POSTGRES_IMAGE = "postgres:18"


@pytest.fixture(scope="session", autouse=True)
def any_free_port() -> Iterator[None]:
    """Keeps the stacks of tests off the usual port of the api.

    Of several that start at the same moment, in other processes, each finds it free; all but one would then ask a
    stranger's api, which does not know their key.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("millrace.embedded.stack.DEFAULT_API_PORT", 0)
        yield


@pytest.fixture(scope="module")
def server_directory() -> Iterator[Callable[[], Path]]:
    """Makes empty directories for servers to keep their data in, until the module's tests are over.

    Removed that soon, most of what is in them is never written to a disk; all at the end take minutes.

    Not below pytest's own (`tmp_path`): every pytest session that starts closes that one to other accounts, and
    when root runs the tests, Postgres runs as another account.
    """
    with _directories() as directory:
        yield directory


@pytest.fixture(scope="session")
def lasting_directory() -> Iterator[Callable[[], Path]]:
    """Makes directories as `server_directory` does, for the servers that the session's tests share."""
    with _directories() as directory:
        yield directory


@pytest.fixture(scope="session")
def nats_url(lasting_directory: Callable[[], Path]) -> Iterator[str]:
    """The session's NATS server, shared: tests keep apart by stream and subject names. See `fresh_nats`."""
    with _nats_server(lasting_directory()) as url:
        yield url


@pytest.fixture
def fresh_nats(server_directory: Callable[[], Path]) -> Iterator[BackgroundStack]:
    """A NATS server of the test's own (about 100 ms), for fixed stream names, kills and restarts.

    `fresh_nats.nats_url`, `fresh_nats.kill("nats")`, `fresh_nats.wait_ready("nats")`.
    """
    stack = EmbeddedStack(server_directory(), durability="interval", servers=("nats",), services={})
    with stack.in_background() as running:
        yield running


@pytest.fixture
def fresh_nats_url(server_directory: Callable[[], Path]) -> Iterator[str]:
    """The URL of an empty NATS server of the test's own."""
    with _nats_server(server_directory()) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url(lasting_directory: Callable[[], Path]) -> Iterator[str]:
    """The session's PostgreSQL server: its administrative database. Tests want `database_url`."""
    if _in_containers():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer(POSTGRES_IMAGE, driver=None) as container:
            yield container.get_connection_url()
        return
    stack = EmbeddedStack(lasting_directory(), durability="interval", servers=("postgres",), services={})
    with stack.in_background() as running:
        yield running.database_url


@pytest.fixture(scope="module")
def database_url(postgres_url: str) -> Iterator[str]:
    """An empty database of the test module's own."""
    with _database(postgres_url) as url:
        yield url


@pytest.fixture
def fresh_database_url(postgres_url: str) -> Iterator[str]:
    """An empty database of the test's own (about 40 ms)."""
    with _database(postgres_url) as url:
        yield url


@contextmanager
def _directories() -> Iterator[Callable[[], Path]]:
    with tempfile.TemporaryDirectory(prefix="millrace-tests-") as root:
        yield lambda: Path(tempfile.mkdtemp(dir=root))


@contextmanager
def _nats_server(directory: Path) -> Iterator[str]:
    if _in_containers():
        from testcontainers.nats import NatsContainer

        with NatsContainer(NATS_IMAGE).with_command("-js") as container:
            yield container.nats_uri()
        return
    stack = EmbeddedStack(directory, durability="interval", servers=("nats",), services={})
    with stack.in_background() as running:
        yield running.nats_url


@contextmanager
def _database(server_url: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    _execute(server_url, f'CREATE DATABASE "{name}"')
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        _execute(server_url, f'DROP DATABASE "{name}" WITH (FORCE)')


def _execute(url: str, statement: str) -> None:
    """One statement in a loop of its own, which leaves the event loop of the test runner alone."""

    async def execute() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        runner.run(execute())


def _in_containers() -> bool:
    return os.environ.get("MILLRACE_TEST_BACKEND") == "containers"
