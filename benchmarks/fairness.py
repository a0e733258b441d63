"""What one workspace's flood does to another: A has very many executions accepted, B starts one now and then.

    python benchmarks/fairness.py                      # 100,000 of A; JSON to standard output
    python benchmarks/fairness.py --flood 10000 --samples 20

Everything is accepted straight on the bus, so that the flood is there at once. Printed are the times from B's start to
its first step being handed out, and to that step's end, with nothing else going on and in the flood. The samples are
spread over the time in which A's executions wait, so that deliveries of them again are met as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from bus_load import BusLoad
from http_client import memory_mb
from workflows import WORKFLOWS

from millrace.embedded import EmbeddedStack
from millrace_shared.messages import StepCompleted, StepScheduled

QUIET_SAMPLES = 20
SAMPLE_S_MAX = 120.0


async def newcomer(load: BusLoad, definition: str) -> tuple[float, float]:
    """Start one execution of B; return the seconds until its first step is handed out, and until it is done."""
    request = load.request("b", definition)
    scheduled = load.watch(request.execution_id, StepScheduled)
    completed = load.watch(request.execution_id, StepCompleted)
    began = time.perf_counter()
    await load.accept([request])
    async with asyncio.timeout(SAMPLE_S_MAX):
        return await scheduled - began, await completed - began


def figures(samples: list[tuple[float, float]]) -> dict[str, Any]:
    """Return medians and worst cases, in milliseconds."""
    names = ("first_step_handed_out_ms", "first_step_completed_ms")
    return {
        name: {"median": round(statistics.median(times) * 1e3, 1), "max": round(max(times) * 1e3, 1)}
        for name, times in zip(names, zip(*samples, strict=True), strict=True)
    }


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a stack, and measure once."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        services = {"orchestrator": 1, "agent-runner": 1}
        stack = EmbeddedStack(Path(directory), durability=arguments.durability, services=services)
        async with stack:
            load = await BusLoad.open(stack.nats_url)
            definition = await load.define(WORKFLOWS["seq3"])
            await newcomer(load, definition)
            quiet = [await newcomer(load, definition) for _ in range(QUIET_SAMPLES)]
            began = time.perf_counter()
            await load.accept([load.request("a", definition) for _ in range(arguments.flood)])
            accepted_s = time.perf_counter() - began
            flooded, resident_mb = [], 0
            for _ in range(arguments.samples):
                flooded.append(await newcomer(load, definition))
                resident_mb = max(resident_mb, memory_mb(stack.supervisor.pid("orchestrator") or 0))
                await asyncio.sleep(arguments.every)
            ended = await load.connection.jetstream_api("STREAM.INFO.EVENTS")
            await load.connection.close()
    return {
        "flood": arguments.flood,
        "accepted_s": round(accepted_s, 1),
        "quiet": figures(quiet),
        "flooded": figures(flooded),
        "transitions_meanwhile": ended["state"]["messages"],
        "orchestrator_mb_max": resident_mb,
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flood", type=int, default=100_000, help="executions of A")
    parser.add_argument("--samples", type=int, default=60, help="executions of B, one after the other")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between them")
    parser.add_argument("--durability", choices=("fsync", "interval"), default="fsync")
    print(json.dumps(uvloop.run(measure(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
