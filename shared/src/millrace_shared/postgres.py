"""Postgres: connections that wait for a server that is still starting, and migrations that only add.

A service owns one schema. Its migrations are files `NNNN_name.sql` in the `migrations` directory of its
package; each runs once, in order, in a transaction of its own, and is recorded with its checksum in
`<schema>.migrations`. An advisory lock per schema lets any number of processes start at the same moment.

`json` and `jsonb` columns read as Python values, by msgspec.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import msgspec

from millrace_shared.errors import DatabaseRefused, DatabaseUnavailable, MigrationRefused

if TYPE_CHECKING:  # the stubs know type parameters that the library itself does not take
    Connection = asyncpg.Connection[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.Connection
    Pool = asyncpg.Pool

START_WAIT_S = 30.0
"""How long a server that does not answer yet is waited for."""
RETRY_WAIT_S = 0.1
COMMAND_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0
MIGRATION_WAIT_S = 120.0
IDLE_LIFETIME_S = 300.0
"""A pooled connection that was idle for this long is closed: at rest a service holds `min_size` of them."""

UNAVAILABLE = (
    OSError,  # refused, reset, no socket file yet; TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)
"""What asyncpg raises while the server is away, starting or going: the same call may succeed later. A pool or
connection that was closed under the caller raises `asyncpg.InterfaceError` as well (`is_unavailable`)."""

_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
)
_FILE_NAME = re.compile(r"^(?P<number>\d{4})_[a-z0-9_]+\.sql$")
_SCHEMA_NAME = re.compile(r"^[a-z][a-z0-9_]{0,40}$")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file. `checksum` is the SHA-256 of its text."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """What the recorded file is compared by."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def is_unavailable(error: BaseException) -> bool:
    """Tell whether `error`, from asyncpg, means that the server or the connection to it is away for now."""
    if isinstance(error, asyncpg.InterfaceError):
        return "clos" in str(error) or "terminat" in str(error)  # connection is closed, pool is closing
    if isinstance(error, asyncpg.InternalClientError):  # the connection broke under the call, and asyncpg lost track
        return True
    return isinstance(error, UNAVAILABLE)


async def set_json_codecs(connection: Connection) -> None:
    """Read and write `json` and `jsonb` as Python values on `connection`."""
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind, schema="pg_catalog", encoder=_json_text, decoder=msgspec.json.decode, format="text"
        )


async def create_pool(
    url: str,
    *,
    min_size: int = 1,
    max_size: int = 10,
    application_name: str,
    server_settings: Mapping[str, str] | None = None,
    wait_s: float = START_WAIT_S,
    command_timeout_s: float = COMMAND_TIMEOUT_S,
) -> Pool:
    """Open a pool, waiting up to `wait_s` for a server that is still starting.

    Args:
        url: `postgresql://…`; a Unix socket is `postgresql://user@/database?host=/directory`.
        min_size: connections that are kept, at least 1 (it proves that the server answers).
        max_size: most connections; callers queue for them.
        application_name: shown in `pg_stat_activity`.
        server_settings: session settings, `{"synchronous_commit": "off"}`, say.
        wait_s: patience with a server that is away.
        command_timeout_s: limit of one statement.

    Raises:
        DatabaseUnavailable: no server answered in time.
        DatabaseRefused: user, password or database are wrong.
    """

    async def open_pool() -> Pool:
        pool: Pool = await asyncpg.create_pool(
            url,
            min_size=max(1, min_size),
            max_size=max_size,
            init=set_json_codecs,
            server_settings=_session(application_name, server_settings),
            command_timeout=command_timeout_s,
            timeout=CONNECT_TIMEOUT_S,
            max_inactive_connection_lifetime=IDLE_LIFETIME_S,
        )
        return pool

    return await _patiently(open_pool, wait_s)


async def connect(
    url: str,
    *,
    application_name: str,
    server_settings: Mapping[str, str] | None = None,
    wait_s: float = START_WAIT_S,
    command_timeout_s: float = COMMAND_TIMEOUT_S,
) -> Connection:
    """Open one connection, as `create_pool` does for several, but with asyncpg's own codecs: JSON is text.

    Raises:
        DatabaseUnavailable: no server answered in time.
        DatabaseRefused: user, password or database are wrong.
    """

    async def open_connection() -> Connection:
        connection: Connection = await asyncpg.connect(
            url,
            server_settings=_session(application_name, server_settings),
            command_timeout=command_timeout_s,
            timeout=CONNECT_TIMEOUT_S,
        )
        return connection

    return await _patiently(open_connection, wait_s)


def migrations_of(package: str) -> list[Migration]:
    """Return the migrations that `package` ships, in order.

    Raises:
        MigrationRefused: a file has another kind of name, or two have one number.
    """
    found: list[Migration] = []
    for entry in resources.files(package).joinpath("migrations").iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE_NAME.match(entry.name)
        if match is None:
            raise MigrationRefused(f"{package}: {entry.name} must be named NNNN_name.sql, with lower-case letters")
        found.append(Migration(int(match["number"]), entry.name, entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    for earlier, later in itertools.pairwise(found):
        if earlier.number == later.number:
            raise MigrationRefused(f"{package}: {earlier.name} and {later.name} have the same number")
    return found


async def migrate(connection: Connection, schema: str, package: str) -> list[str]:
    """Bring `schema` up to the migrations of `package`. Returns the names of those that were applied now.

    A file may name its schema as `:schema:`; each runs in its own transaction.

    Raises:
        MigrationRefused: an applied file was changed or is gone, one was added before an applied one, or
            Postgres refuses one; nothing of that one is left.
        DatabaseUnavailable: the server went away.
    """
    if not _SCHEMA_NAME.match(schema):
        raise MigrationRefused(f"{schema!r} cannot be a schema's name")
    try:
        async with _migration_lock(connection, schema):
            await connection.execute(_CREATE_SCHEMA.format(schema=schema))
            records = await connection.fetch(
                f"SELECT number, name, checksum FROM {schema}.migrations ORDER BY number"  # noqa: S608
            )
            applied = [(record["number"], record["name"], record["checksum"]) for record in records]
            pending = _pending(migrations_of(package), applied, schema)
            for migration in pending:
                await _apply(connection, schema, migration)
            return [migration.name for migration in pending]
    except Exception as error:
        if is_unavailable(error):
            raise DatabaseUnavailable(f"Postgres went away while schema {schema} was migrated") from error
        raise


_CREATE_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {schema}.migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
"""


def _pending(shipped: list[Migration], applied: list[tuple[int, str, str]], schema: str) -> list[Migration]:
    by_number = {migration.number: migration for migration in shipped}
    for number, name, checksum in applied:
        migration = by_number.get(number)
        if migration is None:
            raise MigrationRefused(
                f"schema {schema} has migration {name}, which this version does not know: upgrade this service"
            )
        if migration.checksum != checksum:
            raise MigrationRefused(
                f"{migration.name} was changed after it was applied to schema {schema}: "
                "restore the file, and put the change into a new migration"
            )
    last = max((number for number, _, _ in applied), default=-1)
    known = {number for number, _, _ in applied}
    pending = [migration for migration in shipped if migration.number not in known]
    if pending and pending[0].number < last:
        raise MigrationRefused(
            f"{pending[0].name} comes before a migration that schema {schema} has: give it a new number"
        )
    return pending


async def _apply(connection: Connection, schema: str, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql.replace(":schema:", schema))
            await connection.execute(
                f"INSERT INTO {schema}.migrations (number, name, checksum) VALUES ($1, $2, $3)",  # noqa: S608
                migration.number,
                migration.name,
                migration.checksum,
            )
    except asyncpg.PostgresError as error:
        if is_unavailable(error):
            raise
        raise MigrationRefused(f"Postgres refuses {migration.name} for schema {schema}: {error}") from error


@asynccontextmanager
async def _migration_lock(connection: Connection, schema: str) -> AsyncIterator[None]:
    """One migrating process per schema; the others wait, and then find nothing to do."""
    key = int.from_bytes(hashlib.sha256(f"millrace migrations {schema}".encode()).digest()[:8], "big", signed=True)
    await connection.execute("SELECT pg_advisory_lock($1)", key, timeout=MIGRATION_WAIT_S)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", key)


async def _patiently(attempt: Callable[[], Awaitable[_T]], wait_s: float) -> _T:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return await attempt()
        except _REFUSED as error:
            raise DatabaseRefused(f"Postgres refuses the connection ({error}): check MILLRACE_DATABASE_URL") from error
        except UNAVAILABLE as error:
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"no Postgres answered within {wait_s:g} s ({type(error).__name__}): "
                    "is MILLRACE_DATABASE_URL right?"
                ) from error
            await asyncio.sleep(RETRY_WAIT_S)


def _session(application_name: str, settings: Mapping[str, str] | None) -> dict[str, str]:
    # Statements here are short: compiling them costs more than it saves.
    return {"application_name": application_name, "jit": "off", "timezone": "UTC", **(settings or {})}


def _json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
