"""The whole product under load, over HTTP: four services, NATS and Postgres on this machine, beside the generator.

    python benchmarks/bench.py                       # everything, fsync on, JSON to standard output
    python benchmarks/bench.py --only seq3 --count 5000 --durability interval
    python benchmarks/bench.py --only seq3 --seconds 20   # for this long, not so many

An execution counts as finished when its client has read `completed` from `POST …?wait`. Telemetry into Postgres is on,
and how long it needs to catch up after the last execution is a figure of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import uvloop
from http_client import HttpClient, closed_loop, cpu_seconds, memory_mb
from workflows import WORKFLOWS

from millrace.embedded import EmbeddedStack
from millrace.embedded.ports import choose_free

KEY = "benchmark-key"
EXECUTIONS = "/api/v1/executions"
CATCH_UP_S_MAX = 60.0
IDLE_S = 10.0
SERVICES = ("api", "orchestrator", "agent-runner", "telemetry")
PROCESSES = (*SERVICES, "nats", "postgres")


class Bench:
    """One stack, and the measurements made on it."""

    def __init__(self, stack: EmbeddedStack, client: HttpClient, arguments: argparse.Namespace) -> None:
        self._stack = stack
        self._client = client
        self._arguments = arguments
        self._accepted = 0

    def _pids(self, name: str) -> list[int]:
        pid = self._stack.supervisor.pid(name)
        return [] if pid is None else [pid]

    def cpu(self) -> dict[str, float]:
        """Return the processor time of each part so far, in seconds."""
        return {name: cpu_seconds(self._pids(name)) for name in PROCESSES}

    async def run(self, workflow: str) -> float:
        """Start one execution and wait for its end; return the seconds that took."""
        began = time.perf_counter()
        status, body = await self._client.request(
            "POST", f"{EXECUTIONS}?wait=60", b'{"workflow":"%b","input":{}}' % workflow.encode()
        )
        elapsed = time.perf_counter() - began
        self._accepted += 1
        if status != 200 or msgspec.json.decode(body)["status"] != "completed":
            raise SystemExit(f"{workflow} ended other than it should: {status} {body[:500]!r}")
        return elapsed

    async def post(self) -> dict[str, Any]:
        """POST alone: accepted means durable."""
        count = self._arguments.posts
        load = await closed_loop(self._client, count, 64, EXECUTIONS, lambda _: b'{"workflow":"single","input":{}}')
        self._accepted += count
        await self._caught_up()
        return {
            "per_second": round(count / load.seconds),
            "p50_ms": load.percentile_ms(0.5),
            "p99_ms": load.percentile_ms(0.99),
            "statuses": load.statuses,
        }

    async def single(self) -> dict[str, Any]:
        """One execution of one step at a time."""
        times = sorted([await self.run("single") for _ in range(self._arguments.singles)])
        return {
            "p50_ms": round(statistics.median(times) * 1e3, 2),
            "p99_ms": round(times[int(len(times) * 0.99)] * 1e3, 2),
        }

    async def seq40(self) -> dict[str, Any]:
        """Forty steps in a row."""
        return _seconds([await self.run("seq40") for _ in range(9)])

    async def fan100(self) -> dict[str, Any]:
        """One step, a hundred in parallel, one step."""
        return _seconds([await self.run("fan100") for _ in range(9)])

    async def seq3(self) -> dict[str, Any]:
        """Three steps in a row, a hundred executions in flight."""
        accepted, before, own = self._accepted, self.cpu(), time.process_time()
        began = time.perf_counter()
        numbers = _until(began + self._arguments.seconds) if self._arguments.seconds else range(self._arguments.count)
        turns = iter(numbers)

        async def worker() -> None:
            for _ in turns:
                await self.run("seq3")

        await asyncio.gather(*(worker() for _ in range(100)))
        count = self._accepted - accepted
        elapsed = time.perf_counter() - began
        own = time.process_time() - own
        caught_up = await self._caught_up()
        used = {name: round((seconds - before[name]) / count * 1e6) for name, seconds in self.cpu().items()}
        return {
            "executions": count,
            "per_second": round(count / elapsed),
            "projection_caught_up_s": round(caught_up, 2),
            "cpu_us_per_execution": {**used, "generator": round(own / count * 1e6)},
        }

    async def idle(self) -> dict[str, Any]:
        """What the stack costs when nothing happens."""
        before = self.cpu()
        await asyncio.sleep(IDLE_S)
        after = self.cpu()
        share = {name: round((after[name] - before[name]) / IDLE_S * 100, 2) for name in PROCESSES}
        rss = {name: sum(memory_mb(pid) for pid in self._pids(name)) for name in PROCESSES}
        return {"cpu_percent_of_a_core": {**share, "all": round(sum(share.values()), 2)}, "resident_mb": rss}

    async def _caught_up(self) -> float:
        """Wait until the projection has every accepted execution at its end; return how long that took."""
        connection = await asyncpg.connect(self._stack.database_url)
        began = time.perf_counter()
        try:
            while True:
                done = await connection.fetchval("SELECT count(*) FROM telemetry.executions WHERE status = 'completed'")
                if done >= self._accepted:
                    return time.perf_counter() - began
                if time.perf_counter() - began > CATCH_UP_S_MAX:
                    raise SystemExit(
                        f"the projection has {done} of {self._accepted} executions after {CATCH_UP_S_MAX} s"
                    )
                await asyncio.sleep(0.02)
        finally:
            await connection.close()


def _seconds(times: list[float]) -> dict[str, Any]:
    return {
        "median_s": round(statistics.median(times), 4),
        "min_s": round(min(times), 4),
        "max_s": round(max(times), 4),
    }


def _until(end: float) -> Iterator[None]:
    while time.perf_counter() < end:
        yield


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a stack, run the chosen measurements, and return their figures."""
    figures: dict[str, Any] = {"durability": arguments.durability, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        # Not the usual port: two stacks that start together would both take it for free, and one api would answer both.
        stack = EmbeddedStack(Path(directory), durability=arguments.durability, api_key=KEY, api_port=choose_free())
        async with stack, AsyncExitStack() as opened:
            client = await opened.enter_async_context(HttpClient(stack.api_url, KEY, 100))
            bench = Bench(stack, client, arguments)
            measurements: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
                "idle": bench.idle,
                "single": bench.single,
                "seq40": bench.seq40,
                "fan100": bench.fan100,
                "post": bench.post,
                "seq3": bench.seq3,
            }
            for definition in WORKFLOWS.values():
                status, body = await client.request("POST", "/api/v1/workflows", json.dumps(definition).encode())
                if status != 201:
                    raise SystemExit(f"{definition['name']} was not saved: {status} {body!r}")
            for name in WORKFLOWS:
                await bench.run(name)
            if arguments.on_signal:
                print("ready", file=sys.stderr, flush=True)
                await asyncio.to_thread(sys.stdin.readline)
            for name, take in measurements.items():
                if not arguments.only or name in arguments.only:
                    figures[name] = await take()
                    print(f"{name}: {json.dumps(figures[name])}", file=sys.stderr)
    return figures


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--durability", choices=("fsync", "interval"), default="fsync")
    parser.add_argument("--only", nargs="*", default=[], help="names of measurements")
    parser.add_argument("--count", type=int, default=6_000, help="executions of seq3")
    parser.add_argument("--seconds", type=float, default=0.0, help="seq3 for this long, in place of --count")
    parser.add_argument("--posts", type=int, default=5_000)
    parser.add_argument("--singles", type=int, default=500)
    parser.add_argument("--on-signal", action="store_true", help="say `ready`, and begin when a line is read")
    print(json.dumps(uvloop.run(measure(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
