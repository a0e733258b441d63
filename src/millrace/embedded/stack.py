"""The embedded stack: what `millrace up`, the demo, the benchmarks and the tests all run."""

import asyncio
import os
import secrets
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from millrace.embedded.cluster import account_for, choose_socket_dir
from millrace.embedded.errors import EmbeddedError, PortTakenError
from millrace.embedded.events import Listener
from millrace.embedded.keeper import Backoff
from millrace.embedded.nats import Durability, NatsServer
from millrace.embedded.ports import LOOPBACK, is_free
from millrace.embedded.postgres import PostgresServer
from millrace.embedded.process import ProcessSpec
from millrace.embedded.services import INSTANCES_MAX, SERVICES, ServiceInstance
from millrace.embedded.state import DataDirectory, DirectoryLock, StackState
from millrace.embedded.supervisor import Supervisor

if TYPE_CHECKING:
    from millrace.embedded.background import BackgroundStack

Server = Literal["nats", "postgres"]
EVERY_SERVER: tuple[Server, ...] = ("nats", "postgres")
ONE_OF_EACH: Mapping[str, int] = dict.fromkeys(SERVICES, 1)
DEFAULT_API_PORT = 8080
_ServerT = TypeVar("_ServerT")


class EmbeddedStack:
    """NATS, PostgreSQL and the services, supervised, with everything they keep under one directory.

    An async context manager; `in_background` gives one for code without an event loop. One stack per data
    directory at a time. Ports and secrets are chosen at the first start and stay.

    Args:
        data_dir: created if missing.
        durability: when a write counts as done; see `millrace.embedded.nats.Durability`.
        services: how many processes of each service; `{}` runs the servers only. Several are called `orchestrator-1`,
            `orchestrator-2` and so on, a single one `orchestrator`.
        servers: which embedded servers to run. One whose URL is given is not run.
        nats_url: a NATS server to use instead of the embedded one.
        database_url: a PostgreSQL database to use instead of the embedded one.
        environment: the services' environment: added to this process's own, over it.
        api_key: the bootstrap key; generated once and kept unless given.
        api_host: the address the first api listens on.
        api_port: its port. None: the one it had before, else 8080, else any that is free.
        postgres_tcp: let the embedded Postgres listen on loopback too, for tools that cannot use a Unix
            socket.
        nats_monitoring: turn on the NATS server's monitoring pages (loopback, no password).
        on_event: told of every start, death and restart, in the stack's event loop.
        backoff: how long restarts of a dead process wait.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        durability: Durability = "fsync",
        services: Mapping[str, int] = ONE_OF_EACH,
        servers: Sequence[Server] = EVERY_SERVER,
        nats_url: str | None = None,
        database_url: str | None = None,
        environment: Mapping[str, str] | None = None,
        api_key: str | None = None,
        api_host: str = LOOPBACK,
        api_port: int | None = None,
        postgres_tcp: bool = False,
        nats_monitoring: bool = False,
        on_event: Listener | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        if durability not in ("fsync", "interval"):
            raise ValueError(f'durability is "fsync" or "interval", not {durability!r}')
        for service, count in services.items():
            if service not in SERVICES or not 0 <= count <= INSTANCES_MAX:
                raise ValueError(
                    f"services asks for {count} of {service!r}: at most {INSTANCES_MAX} each of {', '.join(SERVICES)}"
                )
        self.directory = DataDirectory(data_dir.resolve())
        self.durability: Durability = durability
        self._services = {name: services.get(name, 0) for name in SERVICES}
        self._servers = tuple(servers)
        self._given_urls = {"nats": nats_url, "postgres": database_url}
        self._environment = dict(environment or {})
        self._api_key = api_key
        self._api_host, self._api_port = api_host, api_port
        self._postgres_tcp, self._nats_monitoring = postgres_tcp, nats_monitoring
        self._lock = DirectoryLock(self.directory)
        self._state = StackState(self.directory)
        listeners = [self._state.remember, *([on_event] if on_event else [])]
        self.supervisor = Supervisor(self.directory.logs, listeners=listeners, backoff=backoff)
        self._nats: NatsServer | None = None
        self._postgres: PostgresServer | None = None
        self.instances: list[ServiceInstance] = []
        # What the start did besides starting, for the console: orphans it ended, and directories outside
        # the data directory that others may now pass through.
        self.reaped: list[str] = []
        self.opened: list[Path] = []

    async def start(self) -> None:
        """Start everything and return when all of it is ready. If something does not start, nothing is left.

        Raises:
            EmbeddedError: which part did not start, why, and what to do.
        """
        self.directory.create()
        self._lock.acquire()
        try:
            self._state.load()
            self.reaped = await asyncio.to_thread(self._state.reap_orphans)
            self._plan()
            self._state.save()
            await self.supervisor.start(self._server_specs())
            environment = self.service_environment() if any(self._services.values()) else {}
            await self.supervisor.start([instance.spec(environment) for instance in self.instances])
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop everything, the services first, and let go of the data directory."""
        await self.supervisor.stop()
        self._lock.release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def in_background(self) -> "BackgroundStack":
        """This stack as a plain context manager that runs it in a thread of its own."""
        from millrace.embedded.background import BackgroundStack

        return BackgroundStack(self)

    @property
    def nats_url(self) -> str:
        """Where the services connect to NATS, password included."""
        return self._given_urls["nats"] or self._required(self._nats, "nats").url

    @property
    def database_url(self) -> str:
        """Where the services connect to PostgreSQL, password included."""
        return self._given_urls["postgres"] or self._required(self._postgres, "postgres").url

    @property
    def api_key(self) -> str:
        """The bootstrap API key."""
        return self._api_key or self.directory.secret("api_key", lambda: f"mlr_{secrets.token_urlsafe(32)}")

    @property
    def api_url(self) -> str:
        """Where the first api answers."""
        for instance in self.instances:
            if instance.service == "api":
                return instance.url
        raise EmbeddedError('This stack runs no "api".')

    def url(self, name: str) -> str:
        """Where a service's process answers `/readyz` and `/metrics`, by its name in the stack."""
        for instance in self.instances:
            if instance.name == name:
                return instance.url
        raise EmbeddedError(f'This stack runs no "{name}".')

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a process a signal; returns the pid. The supervisor brings it back, see `wait_ready`."""
        return self.supervisor.kill(name, number)

    async def restart(self, name: str) -> None:
        """Stop a process cleanly and start it again; returns when it is ready."""
        await self.supervisor.restart(name)

    async def wait_ready(self, name: str, timeout_s: float = 30.0) -> None:
        """Return when the process is ready (after a `kill`: its successor)."""
        await self.supervisor.wait_ready(name, timeout_s)

    def service_environment(self) -> dict[str, str]:
        """The environment that all services of this stack share, secrets included."""
        return {
            **os.environ,
            "MILLRACE_NATS_URL": self.nats_url,
            "MILLRACE_DATABASE_URL": self.database_url,
            "MILLRACE_DATA_DIR": str(self.directory.root),
            "MILLRACE_DURABILITY": self.durability,
            "MILLRACE_BLOB_URL": os.environ.get("MILLRACE_BLOB_URL") or self.directory.blobs.as_uri(),
            "MILLRACE_API_KEY": self.api_key,
            **self._environment,
        }

    def _plan(self) -> None:
        """Choose accounts, ports and instances. No process runs yet."""
        if "nats" in self._servers and not self._given_urls["nats"]:
            self._nats = NatsServer(
                directory=self.directory.nats,
                port=self._state.port("nats"),
                password=self.directory.secret("nats_password"),
                durability=self.durability,
                monitor_port=self._state.port("nats-monitoring") if self._nats_monitoring else None,
            )
        if "postgres" in self._servers and not self._given_urls["postgres"]:
            self._postgres = self._plan_postgres()
        self.instances = [
            ServiceInstance(
                service=service,
                number=number,
                count=count,
                host=self._api_host if service == "api" else LOOPBACK,
                port=self._service_port(service, number),
            )
            for service, count in self._services.items()
            for number in range(1, count + 1)
        ]
        self._state.api_url = next((one.url for one in self.instances if one.service == "api"), None)

    def _plan_postgres(self) -> PostgresServer:
        account = account_for(self.directory.postgres)
        self._state.socket_dir = choose_socket_dir(self.directory.run, self._state.socket_dir, account)
        return PostgresServer(
            directory=self.directory.postgres,
            socket_dir=self._state.socket_dir,
            password=self.directory.secret("postgres_password"),
            account=account,
            durability=self.durability,
            tcp_port=self._state.port("postgres") if self._postgres_tcp else None,
            on_opened=self._note_opened,
        )

    def _note_opened(self, changed: list[Path]) -> None:
        self.opened += [path for path in changed if path != self.directory.root and path not in self.opened]

    def _service_port(self, service: str, number: int) -> int:
        if service != "api" or number > 1:
            return self._state.port(f"{service}-{number}")
        if self._api_port is None:
            return self._state.port("api-1", prefer=DEFAULT_API_PORT)
        if not is_free(self._api_port, self._api_host):
            raise PortTakenError(
                f"{self._api_host}:{self._api_port} is taken. Stop what listens there, or choose another "
                "MILLRACE_API_PORT."
            )
        return self._api_port

    def _server_specs(self) -> list[ProcessSpec]:
        return [server.spec() for server in (self._nats, self._postgres) if server is not None]

    @staticmethod
    def _required(server: _ServerT | None, name: str) -> _ServerT:
        if server is None:
            raise EmbeddedError(f"This stack has no {name}: it was not asked for, or has not been started.")
        return server
