import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import asyncpg
import pytest

from millrace.embedded import BackgroundStack, EmbeddedStack
from millrace.embedded.cluster import PRIVATE_MODE, account_for, choose_socket_dir, open_the_way
from millrace.embedded.process import Account

Gone = Callable[[int], None]


def stack_in(directory: Path, **options: object) -> EmbeddedStack:
    return EmbeddedStack(directory, servers=("postgres",), services={}, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def postgres(server_directory: Callable[[], Path]) -> Iterator[BackgroundStack]:
    with stack_in(server_directory()).in_background() as running:
        yield running


async def fetch(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_it_is_as_durable_as_a_big_one(postgres: BackgroundStack):
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert await fetch(postgres.database_url, f"SHOW {setting}") == "on"
    assert await fetch(postgres.database_url, "SHOW server_version_num") >= "180000"
    assert await fetch(postgres.database_url, "SELECT current_database()") == "millrace"


async def test_interval_gives_up_the_last_commits_but_never_the_cluster(postgres_url: str):
    assert await fetch(postgres_url, "SHOW synchronous_commit") == "off"
    assert await fetch(postgres_url, "SHOW fsync") == "on"


async def test_nobody_gets_in_without_the_password(postgres: BackgroundStack):
    socket_dir = postgres.stack.directory.run
    for password in (None, "wrong"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host=str(socket_dir), user="millrace", password=password, database="millrace")
    assert socket_dir.stat().st_mode & 0o777 == PRIVATE_MODE


async def test_it_listens_on_its_socket_only_unless_asked(tmp_path: Path, postgres: BackgroundStack):
    assert await fetch(postgres.database_url, "SHOW listen_addresses") == ""
    async with stack_in(tmp_path, postgres_tcp=True) as stack:
        assert "@127.0.0.1:" in stack.database_url
        assert await fetch(stack.database_url, "SELECT inet_server_addr()::text") == "127.0.0.1/32"


async def test_commits_survive_a_kill_while_others_are_at_work(postgres: BackgroundStack, gone: Gone):
    url = postgres.database_url
    await fetch(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    busy = await asyncpg.connect(url)
    backend = await busy.fetchval("SELECT pg_backend_pid()")
    work = asyncio.create_task(busy.execute("SELECT pg_sleep(600)"))
    asleep = f"SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {backend}"
    async with asyncio.timeout(60):
        while not await fetch(url, asleep):
            pass
    postgres.kill("postgres")
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await work
    await asyncio.to_thread(postgres.wait_ready, "postgres")
    gone(backend)
    assert await fetch(url, "SELECT answer FROM kept") == 42
    assert postgres.restarts("postgres") == 1


def test_a_pid_file_that_names_another_program_does_not_keep_it_down(tmp_path: Path, sleeper: Callable[..., Any]):
    with stack_in(tmp_path).in_background() as running:
        first = running.database_url
    account = account_for(tmp_path / "postgres")
    as_account = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    # A program of the server's own user: Postgres takes a live pid of that user for a running server.
    stranger = sleeper(**as_account)
    pid_file = tmp_path / "postgres" / "postmaster.pid"
    pid_file.write_text(f"{stranger.pid}\n{tmp_path / 'postgres'}\n1\n5432\n\n\n\n")
    socket_lock = tmp_path / "run" / ".s.PGSQL.5432.lock"
    socket_lock.write_text(pid_file.read_text())
    if account:
        os.chown(pid_file, account.uid, account.gid)
        os.chown(socket_lock, account.uid, account.gid)
    with stack_in(tmp_path).in_background() as running:
        assert running.database_url == first
        assert running.run(fetch(first, "SELECT 1")) == 1
    assert stranger.poll() is None


def test_a_first_start_that_was_killed_is_begun_again(tmp_path: Path):
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    with stack_in(tmp_path).in_background() as running:
        assert running.run(fetch(running.database_url, "SELECT 1")) == 1
    assert not (tmp_path / "postgres.new").exists()
    assert not list(tmp_path.glob(".pw-*"))


def test_a_long_path_gets_a_short_socket_and_keeps_it(tmp_path: Path):
    deep = tmp_path / ("d" * 100) / "data"
    urls = []
    for _ in range(2):
        with stack_in(deep).in_background() as running:
            urls.append(running.database_url)
            assert running.run(fetch(urls[0], "SELECT 1")) == 1
    assert urls[0] == urls[1]
    assert "host=%2Ftmp%2Fmillrace-" in urls[0]
    Path(unquote(urls[0].partition("host=")[2].partition("&")[0])).rmdir()


def test_a_short_directory_that_is_not_private_any_more_is_not_used_again(tmp_path: Path):
    deep = tmp_path / ("d" * 100)
    first = choose_socket_dir(deep, None, None)
    assert first.stat().st_mode & 0o777 == PRIVATE_MODE
    assert choose_socket_dir(deep, first, None) == first
    first.chmod(0o755)
    second = choose_socket_dir(deep, first, None)
    assert second != first
    first.rmdir()
    third = choose_socket_dir(deep, first, None)
    assert third != first
    second.rmdir()
    third.rmdir()


def test_only_directories_that_are_in_the_way_are_opened_and_only_to_pass(tmp_path: Path):
    closed, passable, target = tmp_path / "closed", tmp_path / "closed" / "passable", "data"
    passable.mkdir(parents=True)
    closed.chmod(0o700)
    passable.chmod(0o711)
    stranger = Account(uid=54321, gid=54321)
    assert closed in open_the_way(passable / target, stranger)
    assert closed.stat().st_mode & 0o777 == 0o701
    assert passable.stat().st_mode & 0o777 == 0o711
    assert open_the_way(passable / target, stranger) == []
