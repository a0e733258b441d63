"""Real processes, killed with -9 in the middle of a stream: nothing is lost, and nothing stands twice."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import SecretStr

from millrace.embedded import EmbeddedStack
from millrace_shared import subjects
from millrace_shared.bus.connection import connect
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.ids import new_id
from millrace_shared.messages import Transition
from millrace_shared.testing.logs import counts, interleaved, random_log, simple_log
from millrace_telemetry.settings import TelemetrySettings

KILLS = 4


async def publish_until_stored(publisher: Publisher, log: Sequence[Transition]) -> None:
    """Append each transition exactly once, over any number of server restarts: the fence tells what is there."""
    last: dict[str, int] = {}
    for transition in log:
        subject = subjects.log(transition.execution_id)
        outgoing = Outgoing(subject, encode(transition), last.get(subject, 0), f"{subject}:{transition.version}")
        last[subject] = (await publisher.publish(outgoing)).seq


@pytest.mark.slow
@pytest.mark.parametrize("victims", [("telemetry",), ("telemetry", "postgres")])
async def test_kill_9_in_the_middle_of_a_stream(
    server_directory: Callable[[], Path], tables_of: Any, victims: tuple[str, ...]
) -> None:
    random = Random(5)
    log = interleaved(random, [random_log(random) for _ in range(250)])
    async with EmbeddedStack(server_directory(), durability="interval", services={"telemetry": 1}) as stack:
        bus = await connect(stack.nats_url, "test")
        tables = await tables_of(stack.database_url)
        publisher = await Publisher(bus).start()
        publishing = asyncio.create_task(publish_until_stored(publisher, log))
        try:
            for number in range(1, KILLS + 1):
                await tables.reach(number * len(log) // (KILLS + 2))
                for victim in victims:
                    stack.kill(victim)
                for victim in reversed(victims):
                    await stack.wait_ready(victim)
                if "postgres" in victims:
                    await tables.pool.close()
                    tables = await tables_of(stack.database_url)
            await publishing
            await tables.reach(len(log))
            await tables.assert_show(log)
            assert stack.supervisor.restarts("telemetry") >= KILLS
            assert await printed_counts(stack) == counts(log)
        finally:
            publishing.cancel()
            await tables.pool.close()
            await bus.close()


async def printed_counts(stack: EmbeddedStack) -> dict[str, Any]:
    """What `python -m millrace_telemetry counts` says of executions and steps."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "millrace_telemetry",
        "counts",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "MILLRACE_DATABASE_URL": stack.database_url},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(output)
    return {name: found[name] for name in ("executions", "steps")}


async def test_sigterm_ends_the_process_cleanly(settings: TelemetrySettings, tables: Any, append: Any) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "millrace_telemetry",
        stderr=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "MILLRACE_NATS_URL": settings.nats_url.get_secret_value(),
            "MILLRACE_DATABASE_URL": settings.database_url.get_secret_value(),
        },
    )
    log = simple_log(new_id())
    try:
        await tables.reach(await append(log))
        process.terminate()
        _, lines = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert b"telemetry is stopping" in lines
    assert b"Traceback" not in lines
    await tables.assert_show(log)


async def test_a_leader_that_is_stopped_is_replaced_and_disturbs_nobody_when_it_wakes(
    settings: TelemetrySettings, tables: Any, append: Any, eventually: Any
) -> None:
    """SIGSTOP leaves the connection open, and with it the lock."""
    random = Random(6)
    log = interleaved(random, [random_log(random) for _ in range(30)])
    third = len(log) // 3
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(settings))
        await tables.reach(await append(log[:third]))
        leaders = await backends(tables)
        await stack.enter_async_context(running(settings))
        first.send_signal(signal.SIGSTOP)
        await tables.reach(await append(log[third : 2 * third]))

        async def all_are_replaced() -> bool:
            return not leaders & await backends(tables)

        await eventually(all_are_replaced, "the leader of the other stream is replaced, too")
        first.send_signal(signal.SIGCONT)

        async def all_are_back() -> bool:
            return len(await backends(tables)) == 4  # two processes, two streams

        await eventually(all_are_back, "the one that was stopped stands by")
        await tables.reach(await append(log[2 * third :]))
    await tables.assert_show(log)


@asynccontextmanager
async def running(settings: TelemetrySettings) -> AsyncIterator[Process]:
    """A telemetry process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "millrace_telemetry",
        stderr=asyncio.subprocess.DEVNULL,
        env={
            **os.environ,
            "MILLRACE_NATS_URL": settings.nats_url.get_secret_value(),
            "MILLRACE_DATABASE_URL": settings.database_url.get_secret_value(),
        },
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        await process.wait()


async def backends(tables: Any) -> set[int]:
    """The server's processes for the connections of telemetry."""
    records = await tables.pool.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'millrace-telemetry %' "
        "AND datname = current_database()"
    )
    return {record["pid"] for record in records}


async def test_a_wrong_setting_is_named_in_one_line() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "millrace_telemetry",
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "MILLRACE_DATABASE_POOL_MAX": "none"},
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"MILLRACE_DATABASE_POOL_MAX" in errors
    assert b"Traceback" not in errors


def test_secrets_do_not_show_in_settings() -> None:
    settings = TelemetrySettings(database_url=SecretStr("postgresql://user:hunter2@host/db"))
    assert "hunter2" not in repr(settings)
