"""What it costs to have very many executions wait: memory, processor at rest, and the speed of the others.

    python benchmarks/waiting.py                         # 100,000 that wait for a verdict; JSON to standard output
    python benchmarks/waiting.py --count 10000 --kind wait

Each is accepted straight on the bus, comes to its approval (or to a pause of a day) and falls asleep. Before that, and
when all of them sleep, executions of three steps are run, a hundred in flight. At the end some are woken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from bus_load import BusLoad
from http_client import cpu_seconds, memory_mb
from workflows import WORKFLOWS

from millrace.embedded import EmbeddedStack
from millrace_shared.ids import PARTITION_COUNT
from millrace_shared.messages import ExecutionFinished, VerdictRequest

IN_FLIGHT = 100
ASLEEP_S_MAX = 900.0
REST_S = 10.0
WOKEN = 200
KINDS: dict[str, dict[str, Any]] = {
    "approval": {"approval": {"message": "Go on?", "deadline": "20d"}},
    "wait": {"wait": {"delay": "20d"}},
}


async def throughput(load: BusLoad, definition: str, count: int) -> float:
    """Run `count` executions of three steps; return how many ended in a second."""
    numbers = iter(range(count))

    async def worker() -> None:
        for _ in numbers:
            request = load.request("others", definition)
            finished = load.watch(request.execution_id, ExecutionFinished)
            await load.accept([request])
            await finished

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return count / (time.perf_counter() - began)


async def all_asleep(load: BusLoad) -> None:
    """Wait until no start is unacknowledged."""
    async with asyncio.timeout(ASLEEP_S_MAX):
        for partition in range(PARTITION_COUNT):
            while True:
                info = await load.connection.jetstream_api(f"CONSUMER.INFO.INBOX.inbox-{partition}")
                if not (info["num_pending"] or info["num_ack_pending"]):
                    break
                await asyncio.sleep(0.5)


async def wake(load: BusLoad, execution_ids: list[str]) -> float:
    """Approve some; return the mean seconds from a verdict to the end."""
    total_s = 0.0
    for execution_id in execution_ids:
        finished = load.watch(execution_id, ExecutionFinished)
        began = time.perf_counter()
        await load.send(execution_id, VerdictRequest(execution_id, "v1", "step", approved=True))
        total_s += await finished - began
    return total_s / len(execution_ids)


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a stack, and measure once."""
    figures: dict[str, Any] = {"kind": arguments.kind, "waiting": arguments.count, "durability": arguments.durability}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        services = {"orchestrator": 1, "agent-runner": 1}
        stack = EmbeddedStack(Path(directory), durability=arguments.durability, services=services)
        async with stack:
            pids = {name: stack.supervisor.pid(name) or 0 for name in ("orchestrator", "nats")}
            load = await BusLoad.open(stack.nats_url)
            seq3 = await load.define(WORKFLOWS["seq3"])
            waiting = await load.define(
                {"name": "waiting", "limits": {"timeout": "30d"}, "steps": {"step": KINDS[arguments.kind]}}
            )
            await throughput(load, seq3, arguments.others // 2)
            before = await throughput(load, seq3, arguments.others)
            began = time.perf_counter()
            requests = [load.request("a", waiting) for _ in range(arguments.count)]
            await load.accept(requests)
            figures["accepted_s"] = round(time.perf_counter() - began, 1)
            await all_asleep(load)
            figures["all_asleep_s"] = round(time.perf_counter() - began, 1)
            used = {name: cpu_seconds([pid]) for name, pid in pids.items()}
            await asyncio.sleep(REST_S)
            figures["resident_mb"] = {name: memory_mb(pid) for name, pid in pids.items()}
            figures["cpu_percent_of_a_core_at_rest"] = {
                name: round((cpu_seconds([pid]) - used[name]) / REST_S * 100, 2) for name, pid in pids.items()
            }
            after = await throughput(load, seq3, arguments.others)
            figures["others_per_second"] = {"before": round(before), "with_them": round(after)}
            figures["ratio"] = round(after / before, 2)
            if arguments.kind == "approval":
                woken_s = await wake(load, [request.execution_id for request in requests[:WOKEN]])
                figures["woken_to_its_end_ms"] = round(woken_s * 1e3, 1)
            await load.connection.close()
    return figures


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="executions that wait")
    parser.add_argument("--kind", choices=tuple(KINDS), default="approval")
    parser.add_argument("--others", type=int, default=4_000, help="executions of three steps in each measurement")
    parser.add_argument("--durability", choices=("fsync", "interval"), default="fsync")
    print(json.dumps(uvloop.run(measure(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
