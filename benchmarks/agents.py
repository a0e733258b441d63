"""What one agent step with one call of a model costs the agent runner, and what 200 streams at once take.

    .venv/bin/python benchmarks/agents.py [--steps 2000] [--streams 200] [--form text|whole|structured]

A private NATS server, a provider that answers at once in this process, and one real runner process, without Postgres.
A `text` answer is streamed in twelve pieces, a `whole` or `structured` one comes at once. Steps are queued all at once,
and the time until every result is stored is taken; CPU is the runner's own, from /proc. Then many streams are opened,
and the runner's memory is read while all of them are. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from runner import cpu_s, offer, rss_mb, until

from millrace.embedded import EmbeddedStack
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.streams import ensure_streams
from millrace_shared.codec import encode
from millrace_shared.ids import attempt_key, new_id
from millrace_shared.messages import RunStep
from millrace_shared.testing.providers import Call, FakeProviders, Reply, reply, structured
from millrace_shared.values import Payload

WARM_UP = 100
SLOTS_STANDING = 24
"""More than what standing requests for work of other kinds and lanes take."""
OPEN_S_MAX = 60.0
SCORE = {"type": "object", "required": ["score"], "properties": {"score": {"type": "number"}}}
ANSWER = "A short answer of about twenty words, which is what most steps of real workflows ask a model for. " * 2


def work(form: str, model: str) -> tuple[str, bytes]:
    """An agent step of an execution of its own."""
    agent = {"name": "writer", "model": f"openai:{model}", "instructions": "Be brief."}
    spec: dict[str, object] = {"agent": agent | ({"streaming_enabled": False} if form == "whole" else {})}
    if form == "structured":
        spec["output"] = SCORE
    execution_id = new_id()
    step = RunStep(
        execution_id=execution_id,
        workspace="default",
        workflow_id="w",
        workflow_name="bench",
        workflow_version=1,
        step="ask",
        attempt=1,
        kind="agent",
        timeout_s=300.0,
        deadline=time.time() + 3600,
        spec=msgspec.Raw(msgspec.json.encode(spec)),
        input=Payload(data={"prompt": "Why is the sky blue?", "input": {"text": "x" * 200}}),
    )
    return subjects.work("agent", "normal", execution_id, attempt_key("ask", None, 1)), encode(step)


def provider(call: Call) -> Reply:
    """Answer at once; to the model `stream`, as slowly as people read."""
    if call.model == "stream":
        return reply(ANSWER * 4, piece_delay_s=0.2)
    if call.tools or call.body.get("response_format"):
        return structured(call, {"score": 1})
    return reply(ANSWER)


async def steps(connection: Connection, pid: int, arguments: argparse.Namespace) -> dict[str, object]:
    """Run steps of one call each."""
    await offer(connection, [work(arguments.form, "instant") for _ in range(WARM_UP)], 0)
    await until(connection, "INBOX", WARM_UP)
    messages = [work(arguments.form, "instant") for _ in range(arguments.steps)]
    cpu_before, started = cpu_s(pid), time.monotonic()
    await offer(connection, messages, 0)
    await until(connection, "INBOX", WARM_UP + arguments.steps)
    elapsed_s = time.monotonic() - started
    used_s = cpu_s(pid) - cpu_before
    return {
        "steps_per_s": round(arguments.steps / elapsed_s, 1),
        "runner_cpu_ms_per_step": round(used_s / arguments.steps * 1e3, 2),
        "runner_cpu_share": round(used_s / elapsed_s, 2),
        "rss_mb": round(rss_mb(pid), 1),
    }


async def streams(
    connection: Connection, providers: FakeProviders, pid: int, arguments: argparse.Namespace
) -> dict[str, object]:
    """Open streams, and read the runner's memory while they are."""
    asked = len(providers.calls)
    await offer(connection, [work("text", "stream") for _ in range(arguments.streams)], 0)
    deadline, open_max, rss_max = time.monotonic() + OPEN_S_MAX, 0, 0.0
    while time.monotonic() < deadline:
        calls = providers.calls[asked:]
        open_now = sum(call.fate == "open" for call in calls)
        if open_now >= open_max:
            open_max, rss_max = open_now, max(rss_max, rss_mb(pid))
        if len(calls) == arguments.streams and not open_now:
            break
        await asyncio.sleep(0.05)
    await until(connection, "INBOX", WARM_UP + arguments.steps + arguments.streams)
    return {"streams_open_max": open_max, "rss_mb_then": round(rss_max, 1)}


@asynccontextmanager
async def runner(nats_url: str, openai_url: str, directory: Path, slots: int) -> AsyncIterator[int]:
    """A runner without Postgres; gives its process id."""
    environment = {
        **os.environ,
        "MILLRACE_NATS_URL": nats_url,
        "MILLRACE_DATA_DIR": str(directory),
        "MILLRACE_OPENAI_BASE_URL": openai_url,
        "MILLRACE_RUNNER_SLOTS": str(slots),
    }
    environment.pop("MILLRACE_DATABASE_URL", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "millrace_agent_runner", env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        while b"is ready" not in await process.stderr.readline():
            pass
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        _, rest = await process.communicate()
        sys.stderr.write(rest.decode())


async def measure(arguments: argparse.Namespace, nats_url: str, directory: Path) -> dict[str, object]:
    """Run both measurements, each with a runner of its own."""
    connection = await connect(nats_url, "benchmark")
    await ensure_streams(connection)
    try:
        with FakeProviders(provider) as providers:
            async with runner(nats_url, providers.openai_url, directory, arguments.slots) as pid:
                cost = await steps(connection, pid, arguments)
            async with runner(nats_url, providers.openai_url, directory, arguments.streams + SLOTS_STANDING) as pid:
                memory = await streams(connection, providers, pid, arguments)
    finally:
        await connection.close()
    known = {"durability": arguments.durability, "form": arguments.form, "steps": arguments.steps}
    return {**known, "slots": arguments.slots, **cost, **memory}


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--form", choices=("text", "whole", "structured"), default="text")
    parser.add_argument("--durability", choices=("fsync", "interval"), default="fsync")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        stack = EmbeddedStack(path / "nats", durability=arguments.durability, servers=("nats",), services={})
        async with stack:
            print(json.dumps(await measure(arguments, stack.nats_url, path / "runner")))


if __name__ == "__main__":
    asyncio.run(main())
