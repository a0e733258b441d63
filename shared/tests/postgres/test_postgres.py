"""Connections that wait, and migrations that only add: against the real server."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from millrace_shared import postgres
from millrace_shared.errors import DatabaseRefused, DatabaseUnavailable, MigrationRefused

PACKAGE = "migrated_package"


@pytest.fixture
async def connection(fresh_database_url: str) -> AsyncIterator[postgres.Connection]:
    connection = await postgres.connect(fresh_database_url, application_name="test")
    yield connection
    await connection.close()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The `migrations` directory of a package that can be imported."""
    directory = tmp_path / PACKAGE / "migrations"
    directory.mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    (directory / "0001_first.sql").write_text("CREATE TABLE :schema:.one (id int);")
    (directory / "0002_second.sql").write_text("ALTER TABLE :schema:.one ADD COLUMN name text;")
    return directory


async def test_migrations_run_once_and_in_order(connection: postgres.Connection, files: Path) -> None:
    assert await postgres.migrate(connection, "things", PACKAGE) == ["0001_first.sql", "0002_second.sql"]
    assert await postgres.migrate(connection, "things", PACKAGE) == []
    (files / "0003_third.sql").write_text("CREATE TABLE :schema:.two (id int);")
    assert await postgres.migrate(connection, "things", PACKAGE) == ["0003_third.sql"]
    await connection.execute("INSERT INTO things.one (id, name) VALUES (1, 'a'); SELECT * FROM things.two")


async def test_processes_that_start_together_apply_each_file_once(fresh_database_url: str, files: Path) -> None:
    async def one() -> list[str]:
        connection = await postgres.connect(fresh_database_url, application_name="test")
        try:
            return await postgres.migrate(connection, "things", PACKAGE)
        finally:
            await connection.close()

    applied = await asyncio.gather(*(one() for _ in range(8)))
    assert sorted(name for names in applied for name in names) == ["0001_first.sql", "0002_second.sql"]


async def test_a_changed_file_is_refused_by_name(connection: postgres.Connection, files: Path) -> None:
    await postgres.migrate(connection, "things", PACKAGE)
    (files / "0001_first.sql").write_text("CREATE TABLE :schema:.one (id bigint);")
    with pytest.raises(MigrationRefused, match=r"0001_first\.sql was changed after it was applied"):
        await postgres.migrate(connection, "things", PACKAGE)


async def test_an_older_version_of_the_service_is_told_to_upgrade(connection: postgres.Connection, files: Path) -> None:
    await postgres.migrate(connection, "things", PACKAGE)
    (files / "0002_second.sql").unlink()
    with pytest.raises(MigrationRefused, match=r"0002_second\.sql, which this version does not know"):
        await postgres.migrate(connection, "things", PACKAGE)


async def test_a_file_cannot_be_added_before_an_applied_one(connection: postgres.Connection, files: Path) -> None:
    (files / "0001_first.sql").rename(files / "0005_first.sql")
    (files / "0002_second.sql").rename(files / "0006_second.sql")
    await postgres.migrate(connection, "things", PACKAGE)
    (files / "0003_late.sql").write_text("SELECT 1;")
    with pytest.raises(MigrationRefused, match="give it a new number"):
        await postgres.migrate(connection, "things", PACKAGE)


async def test_nothing_is_left_of_a_migration_that_fails(connection: postgres.Connection, files: Path) -> None:
    (files / "0002_second.sql").write_text("CREATE TABLE :schema:.half (id int); SELECT nonsense;")
    with pytest.raises(MigrationRefused, match=r"Postgres refuses 0002_second\.sql"):
        await postgres.migrate(connection, "things", PACKAGE)
    assert await connection.fetchval("SELECT to_regclass('things.half')") is None
    (files / "0002_second.sql").write_text("CREATE TABLE :schema:.whole (id int);")
    assert await postgres.migrate(connection, "things", PACKAGE) == ["0002_second.sql"]


@pytest.mark.parametrize("name", ["1_short.sql", "0002-dash.sql", "0002_Upper.sql"])
def test_file_names_are_checked(files: Path, name: str) -> None:
    (files / name).write_text("SELECT 1;")
    with pytest.raises(MigrationRefused, match="NNNN_name"):
        postgres.migrations_of(PACKAGE)


def test_two_files_with_one_number_are_refused(files: Path) -> None:
    (files / "0002_other.sql").write_text("SELECT 1;")
    with pytest.raises(MigrationRefused, match="the same number"):
        postgres.migrations_of(PACKAGE)


@pytest.mark.parametrize("schema", ["", "Config", "a b", "a; DROP TABLE x", "pg-1"])
async def test_a_schema_name_is_a_plain_word(connection: postgres.Connection, schema: str) -> None:
    with pytest.raises(MigrationRefused, match="cannot be a schema's name"):
        await postgres.migrate(connection, schema, PACKAGE)


async def test_a_pool_reads_and_writes_json_as_values(fresh_database_url: str) -> None:
    pool = await postgres.create_pool(fresh_database_url, max_size=2, application_name="test")
    try:
        value = {"z": [1, 2.5, None, "ä"], "a": {"b": True}}
        for kind in ("json", "jsonb"):
            assert await pool.fetchval(f"SELECT $1::{kind}", value) == value
        assert list(await pool.fetchval("SELECT $1::json", value)) == ["z", "a"]  # json keeps the order
        assert await pool.fetchval("SHOW jit") == "off"
    finally:
        await pool.close()


async def test_an_absent_server_is_waited_for_and_then_named(tmp_path: Path) -> None:
    url = f"postgresql://user@/database?host={tmp_path}"
    with pytest.raises(DatabaseUnavailable, match=r"no Postgres answered within 0\.3 s"):
        await postgres.create_pool(url, application_name="test", wait_s=0.3)


async def test_a_missing_database_is_refused_at_once(fresh_database_url: str) -> None:
    url = urlunsplit(urlsplit(fresh_database_url)._replace(path="/no_such_database"))
    with pytest.raises(DatabaseRefused, match="check MILLRACE_DATABASE_URL"):
        await postgres.connect(url, application_name="test")


LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg raises on a connection that has gone, depending on the moment at which it notices."""


async def test_a_lost_connection_is_told_from_a_refused_statement(fresh_database_url: str) -> None:
    victim = await postgres.connect(fresh_database_url, application_name="victim")
    other = await postgres.connect(fresh_database_url, application_name="other")
    try:
        with pytest.raises(asyncpg.PostgresError) as refused:
            await other.execute("SELECT nonsense")
        assert not postgres.is_unavailable(refused.value)
        await other.execute("SELECT pg_terminate_backend($1)", victim.get_server_pid())
        with pytest.raises(LOST) as lost:
            await victim.execute("SELECT 1")
        assert postgres.is_unavailable(lost.value)
        # Whether the client knows already that the connection is closed, or finds out now, is a matter of moments.
        with pytest.raises(LOST) as closed:
            await victim.execute("SELECT 1")
        assert postgres.is_unavailable(closed.value)
    finally:
        await other.close()
