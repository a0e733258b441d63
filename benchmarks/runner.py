"""What one trivial python step costs the agent runner: CPU per step, and steps per second.

    .venv/bin/python benchmarks/runner.py [--steps 20000] [--rate 1800] [--durability fsync]

A private NATS server, one real runner process. Work messages are published at `--rate` per second (0: all at once), and
the time until every result is stored is taken. CPU is the runner's own, from /proc. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from millrace.embedded import EmbeddedStack
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.streams import ensure_streams
from millrace_shared.codec import encode
from millrace_shared.ids import attempt_key, new_id
from millrace_shared.messages import RunStep
from millrace_shared.values import Payload

TICKS = os.sysconf("SC_CLK_TCK")
DEADLINE_S = 120.0


def cpu_s(pid: int) -> float:
    """CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def work(number: int) -> tuple[str, bytes]:
    """A trivial step of an execution of its own."""
    execution_id = new_id()
    step = RunStep(
        execution_id=execution_id,
        workspace="default",
        workflow_id="w",
        workflow_name="bench",
        workflow_version=1,
        step="process",
        attempt=1,
        kind="python",
        timeout_s=300.0,
        deadline=time.time() + 3600,
        spec=msgspec.Raw(b'{"call":"millrace_agent_runner.functions:echo"}'),
        input=Payload(data={"input": {"number": number, "text": "x" * 100}}),
    )
    key = attempt_key("process", None, 1)
    return subjects.work("python", "normal", execution_id, key), encode(step)


async def stored(connection: Connection, stream: str) -> int:
    """Messages that a stream holds."""
    info = await connection.jetstream_api(f"STREAM.INFO.{stream}")
    return int(info["state"]["messages"])


async def until(connection: Connection, stream: str, count: int) -> None:
    """Wait until a stream holds `count` messages."""
    deadline = time.monotonic() + DEADLINE_S
    while await stored(connection, stream) != count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{stream} holds {await stored(connection, stream)} messages, not {count}")
        await asyncio.sleep(0.05)


async def offer(connection: Connection, messages: list[tuple[str, bytes]], rate: int) -> None:
    """Publish work at a steady rate, in the bursts of 10 ms that an orchestrator makes too."""
    per_burst = max(1, rate // 100) if rate else 200
    started = time.monotonic()
    for position in range(0, len(messages), per_burst):
        for subject, payload in messages[position : position + per_burst]:
            connection.send(subject, payload)
        if rate:
            ahead_s = position / rate - (time.monotonic() - started)
            await asyncio.sleep(max(0.0, ahead_s))
        else:
            await connection.flush(30)


async def measure(arguments: argparse.Namespace, nats_url: str, directory: Path) -> dict[str, object]:
    """Run one measurement."""
    connection = await connect(nats_url, "benchmark")
    await ensure_streams(connection)
    environment = {**os.environ, "MILLRACE_NATS_URL": nats_url, "MILLRACE_DATA_DIR": str(directory)}
    runner = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "millrace_agent_runner", env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert runner.stderr is not None
        while b"is ready" not in await runner.stderr.readline():
            pass
        await asyncio.sleep(1)
        at_rest_mb = rss_mb(runner.pid)
        messages = [work(number) for number in range(arguments.steps)]
        cpu_before, started = cpu_s(runner.pid), time.monotonic()
        await offer(connection, messages, arguments.rate)
        offered_s = time.monotonic() - started
        await until(connection, "INBOX", arguments.steps)
        elapsed_s = time.monotonic() - started
        await until(connection, "WORK", 0)
        used_s = cpu_s(runner.pid) - cpu_before
        return {
            "durability": arguments.durability,
            "steps": arguments.steps,
            "rate_offered": round(arguments.steps / offered_s),
            "steps_per_s": round(arguments.steps / elapsed_s),
            "runner_cpu_us_per_step": round(used_s / arguments.steps * 1e6, 1),
            "runner_cpu_share": round(used_s / elapsed_s, 2),
            "rss_at_rest_mb": round(at_rest_mb, 1),
            "rss_after_mb": round(rss_mb(runner.pid), 1),
        }
    finally:
        if runner.returncode is None:
            runner.terminate()
        _, rest = await runner.communicate()
        sys.stderr.write(rest.decode())
        await connection.close()


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--rate", type=int, default=1_800)
    parser.add_argument("--durability", choices=("fsync", "interval"), default="fsync")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        stack = EmbeddedStack(path / "nats", durability=arguments.durability, servers=("nats",), services={})
        async with stack:
            print(json.dumps(await measure(arguments, stack.nats_url, path / "runner")))


if __name__ == "__main__":
    asyncio.run(main())
