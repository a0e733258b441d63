"""How fast the api accepts executions: POST /api/v1/executions alone, with nothing behind it but the bus.

    python benchmarks/post.py --count 10000 --connections 64 --durability fsync

Starts a stack of its own (NATS, Postgres, one api) and prints one JSON object: rate, latency, and the processor time of
the api and of NATS per request. The load generator runs beside them, on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from http_client import HttpClient, closed_loop, cpu_seconds, memory_mb

from millrace.embedded import EmbeddedStack
from millrace.embedded.ports import choose_free

KEY = "benchmark-key"
WORKFLOW = b"""
version: 1
name: benchmark
inputs:
  n: {type: integer, default: 1}
steps:
  a: {transform: {n: "${{ inputs.n }}"}}
"""


def body_of(number: int) -> bytes:
    """Return one request."""
    return b'{"workflow":"benchmark","input":{"n":%d}}' % number


def named_body_of(number: int) -> bytes:
    """Return one request with an execution name."""
    return b'{"workflow":"benchmark","execution_name":"run-%d","input":{"n":%d}}' % (number, number)


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure once."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        stack = EmbeddedStack(
            Path(directory), durability=arguments.durability, services={"api": 1}, api_key=KEY, api_port=choose_free()
        )
        async with stack:
            pids = {name: stack.supervisor.pid(name) or 0 for name in ("api", "nats")}
            async with HttpClient(stack.api_url, KEY, arguments.connections) as client:
                status, body = await client.request("POST", "/api/v1/workflows", WORKFLOW)
                assert status == 201, body
                path, make = "/api/v1/executions", named_body_of if arguments.named else body_of
                await closed_loop(client, 500, arguments.connections, path, lambda number: body_of(-number))
                before = {name: cpu_seconds([pids[name]]) for name in pids}
                own = sum(os.times()[:2])
                load = await closed_loop(client, arguments.count, arguments.connections, path, make)
                used = {name: cpu_seconds([pids[name]]) - before[name] for name in before}
                own = sum(os.times()[:2]) - own
            resident_mb = memory_mb(pids["api"])
    return {
        "durability": arguments.durability,
        "connections": arguments.connections,
        "requests": arguments.count,
        "per_second": round(arguments.count / load.seconds),
        "statuses": load.statuses,
        "latency_ms": {name: load.percentile_ms(share) for name, share in (("p50", 0.5), ("p99", 0.99))},
        "cpu_us_per_request": {
            **{name: round(seconds / arguments.count * 1e6) for name, seconds in used.items()},
            "generator": round(own / arguments.count * 1e6),
        },
        "api_rss_mb": resident_mb,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--durability", choices=("fsync", "interval"), default="fsync")
    parser.add_argument("--named", action="store_true", help="give each execution a name")
    print(json.dumps(uvloop.run(run(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
