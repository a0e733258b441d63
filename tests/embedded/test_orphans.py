"""Nothing of a stack outlives a supervisor that is killed with SIGKILL, and the next start finds its data."""

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from millrace.embedded import EmbeddedStack
from millrace.embedded.identity import working_in

RUN = """
import asyncio, json, pathlib, sys
from millrace.embedded import EmbeddedStack

async def main():
    async with EmbeddedStack(pathlib.Path(sys.argv[1]), services={}) as stack:
        print(json.dumps({name: stack.supervisor.pid(name) for name in stack.supervisor.names}), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def supervisor_in(directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, str(directory)], stdout=subprocess.PIPE)


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux signals children when their parent dies")
def test_the_death_of_the_supervisor_is_the_death_of_the_stack(tmp_path: Path, gone: Callable[[int], None]):
    with supervisor_in(tmp_path) as supervisor:
        assert supervisor.stdout is not None
        pids = json.loads(supervisor.stdout.readline())
        assert set(pids) == {"nats", "postgres"}
        of_postgres = working_in(tmp_path / "postgres", command="postgres")
        assert len(of_postgres) > 1  # its children are sessions of their own
        supervisor.send_signal(signal.SIGKILL)
    for pid in (*pids.values(), *of_postgres):
        gone(pid)


async def test_the_next_start_finds_its_data(tmp_path: Path):
    async def committed(url: str, query: str) -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    with await asyncio.to_thread(supervisor_in, tmp_path) as supervisor:
        assert supervisor.stdout is not None
        await asyncio.to_thread(supervisor.stdout.readline)
        password = (tmp_path / "secrets" / "postgres_password").read_text()
        url = f"postgresql://millrace:{password}@/millrace?host={tmp_path / 'run'}"
        await committed(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        supervisor.send_signal(signal.SIGKILL)
        # At once: the orphans, where there are any, are the next start's to clear away.
        supervisor.wait()
    async with EmbeddedStack(tmp_path, services={}) as stack:
        assert await committed(stack.database_url, "SELECT answer FROM kept") == 42


def test_a_stack_never_takes_over_from_a_living_supervisor(tmp_path: Path):
    with supervisor_in(tmp_path) as supervisor:
        assert supervisor.stdout is not None
        supervisor.stdout.readline()
        second = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], capture_output=True, check=False)
        assert f"in use by process {supervisor.pid}".encode() in second.stderr
        os.kill(supervisor.pid, 0)
        supervisor.send_signal(signal.SIGKILL)
