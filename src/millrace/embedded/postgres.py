"""The embedded PostgreSQL: its cluster, its process, its readiness.

The wheel's own API daemonises the server through `pg_ctl` and keeps a list of its users in the data
directory. We want a child that we own (killed and restarted in crash tests, its death noticed at once), so
this module uses the wheel's programs: `initdb` once, then `postgres` in the foreground under the supervisor.

Who can connect: the socket lies in a directory with mode 0700, and every connection gives a password
(SCRAM), over TCP, where it is asked for, too. Either would do alone for most; the password is for root, whose
server runs as another account that other daemons may share, and costs a few milliseconds per connection,
which pools hide.
"""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from millrace.embedded import binaries
from millrace.embedded.cluster import SUPERUSER, ClusterPlace, create_cluster, open_the_way
from millrace.embedded.errors import DataDirectoryError
from millrace.embedded.identity import kill_and_wait, working_in
from millrace.embedded.nats import Durability
from millrace.embedded.ports import LOOPBACK
from millrace.embedded.process import Account, ProcessSpec

DATABASE = "millrace"
SOCKET_PORT = 5432  # part of the socket's file name, whatever TCP does
CONNECTIONS_MAX = 100
_ORPHANS_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 120.0  # recovery after a crash replays up to max_wal_size
_FAST_SHUTDOWN_GRACE_S = 30.0  # it writes a checkpoint


@dataclass(frozen=True, kw_only=True)
class PostgresServer:
    """A PostgreSQL 18 server with one database, on a Unix socket and, where asked for, on loopback.

    Attributes:
        directory: the cluster; created at the first start.
        socket_dir: private to the account; short enough for a socket.
        password: of the superuser `millrace`.
        account: whom the server runs as when we are root (it refuses to be root); None for ourselves.
        durability: `interval` acknowledges a commit before its fsync (`synchronous_commit = off`): the last
            commits may be lost on a power failure, the cluster is never damaged. fsync itself is always on.
        tcp_port: on 127.0.0.1; None listens on the socket only.
        on_opened: told which directories were opened for the account to pass through.
    """

    directory: Path
    socket_dir: Path
    password: str = field(repr=False)
    account: Account | None = None
    durability: Durability = "fsync"
    tcp_port: int | None = None
    on_opened: Callable[[list[Path]], None] = field(default=lambda _changed: None, repr=False)

    @property
    def url(self) -> str:
        """Where clients connect, password included. A Unix socket, unless TCP was asked for."""
        if self.tcp_port:
            return f"postgresql://{SUPERUSER}:{self.password}@{LOOPBACK}:{self.tcp_port}/{DATABASE}"
        host = quote(str(self.socket_dir), safe="")
        return f"postgresql://{SUPERUSER}:{self.password}@/{DATABASE}?host={host}&port={SOCKET_PORT}"

    def spec(self) -> ProcessSpec:
        """The process to supervise."""
        return ProcessSpec(
            name="postgres",
            argv=(str(binaries.postgres_bin() / "postgres"), "-D", str(self.directory)),
            env={"LC_ALL": "C"},
            account=self.account,
            prepare=self._prepare,
            ready=self._is_ready,
            ready_timeout_s=_START_TIMEOUT_S,
            stop_signal=signal.SIGINT,  # "fast": refuses new work, rolls back what is open, checkpoints
            stop_grace_s=_FAST_SHUTDOWN_GRACE_S,
            # "immediate": the postmaster takes its children with it; the next start recovers.
            death_signal=signal.SIGQUIT,
        )

    async def _prepare(self) -> None:
        if self.account is not None:
            for path in (self.directory, binaries.postgres_bin() / "postgres"):
                self.on_opened(open_the_way(path, self.account))
        await asyncio.to_thread(self._clear_remains)
        place = ClusterPlace(self.directory, binaries.postgres_bin(), self.account)
        if not (self.directory / "PG_VERSION").exists():
            await asyncio.to_thread(create_cluster, place, self.password, DATABASE)
        place.write("postgresql.conf", self.config())

    def _clear_remains(self) -> None:
        """Make way after a kill -9.

        The killed server's children may live on for a moment, attached to its shared memory, and then the
        next start is refused. And its lock files name a pid that may by now be another program of the
        same user, and then the next start is refused for ever. We hold the lock of the data directory, so
        nobody else's server can be running here.
        """
        remains = working_in(self.directory, command="postgres")
        if stubborn := kill_and_wait(remains, timeout_s=_ORPHANS_TIMEOUT_S):
            raise DataDirectoryError(f"processes {stubborn} still use {self.directory} and do not die.")
        for lock in (self.directory / "postmaster.pid", *self.socket_dir.glob(".s.PGSQL.*")):
            lock.unlink(missing_ok=True)

    def config(self) -> str:
        """The configuration file: a small server that is as durable as a big one."""
        settings = {
            "cluster_name": "millrace",
            "listen_addresses": LOOPBACK if self.tcp_port else "",
            "port": self.tcp_port or SOCKET_PORT,
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
            "max_connections": CONNECTIONS_MAX,
            "fsync": "on",
            "synchronous_commit": "on" if self.durability == "fsync" else "off",
            # A laptop's share of memory and disk.
            "shared_buffers": "64MB",
            "max_wal_size": "512MB",
            "min_wal_size": "48MB",
            # Nobody replicates an embedded server, and the minimal log is the cheapest to write.
            "wal_level": "minimal",
            "max_wal_senders": "0",
            # Short queries: compiling and parallel workers cost more than they give, and idle workers cost
            # memory.
            "jit": "off",
            "io_method": "sync",
            "max_parallel_workers_per_gather": "0",
            "max_worker_processes": "4",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] ",
            "log_checkpoints": "off",
        }
        lines = [f"{name} = {_quoted(value)}" for name, value in settings.items()]
        return "\n".join(["# Generated at every start: changes are overwritten.", *lines, ""])

    async def _is_ready(self) -> bool:
        """It lets us in to the database."""
        import asyncpg

        try:
            connection = await asyncpg.connect(self.url, timeout=5)
        except asyncpg.CannotConnectNowError:  # it is still recovering
            return False
        await connection.close()
        return True


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"
