"""How a process that was started by hand joins the stack that runs in a data directory."""

from pathlib import Path

from millrace.embedded.nats import NatsServer
from millrace.embedded.postgres import PostgresServer
from millrace.embedded.state import DataDirectory, StackState


def servers_of(data_dir: Path) -> dict[str, str]:
    """Return the environment variables that name the embedded servers of a data directory, secrets included.

    Args:
        data_dir: as `millrace up` was told; nothing in it is changed.

    Returns:
        What is known, by variable: nothing where no stack has run, and only what is embedded.

    Raises:
        DataDirectoryError: what the stack remembers cannot be read.
    """
    directory = DataDirectory(data_dir.resolve())
    state = StackState(directory)
    state.load()
    found = {}
    nats_port = state.known_port("nats")
    if nats_port is not None and (directory.secrets / "nats_password").exists():
        password = directory.secret("nats_password")
        server = NatsServer(directory=directory.nats, port=nats_port, password=password)
        found["MILLRACE_NATS_URL"] = server.url
    if state.socket_dir is not None and (directory.secrets / "postgres_password").exists():
        password = directory.secret("postgres_password")
        database = PostgresServer(directory=directory.postgres, socket_dir=state.socket_dir, password=password)
        found["MILLRACE_DATABASE_URL"] = database.url
    return found
