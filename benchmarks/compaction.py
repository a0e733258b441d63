"""What compaction saves: the disk of EVENTS for executions of three steps, before and after, and how fast it goes.

    python benchmarks/compaction.py [--count 1000]

The logs are those of real executions: a stack performs them, then their logs are compacted as the orchestrator does,
with a clock that is a day ahead.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from http_client import HttpClient, closed_loop
from workflows import WORKFLOWS

from millrace.embedded import EmbeddedStack
from millrace.embedded.ports import choose_free
from millrace_orchestrator.adapters.compaction import Compaction
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.publisher import Publisher
from millrace_shared.ids import PARTITION_COUNT

KEY = "benchmark-key"
EXECUTIONS = "/api/v1/executions?wait=60"
BODY = b'{"workflow":"seq3","input":{}}'
IN_FLIGHT = 20
LATER_S = 25 * 3600.0


async def state(connection: Connection, directory: Path) -> dict[str, int]:
    """Messages and bytes of EVENTS as the server counts them, and of its files."""
    info = (await connection.jetstream_api("STREAM.INFO.EVENTS"))["state"]
    return {"messages": info["messages"], "bytes": info["bytes"], "file_bytes": file_bytes(directory)}


def file_bytes(directory: Path) -> int:
    """Bytes of the blocks of EVENTS. The server frees a block when half of it is gone, and never the last one."""
    return sum(path.stat().st_size for path in directory.glob("**/streams/EVENTS/msgs/*.blk"))


async def measure(count: int) -> dict[str, Any]:
    """Perform, compact, compare."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        environment = {"MILLRACE_LOG_COMPACTION_HOURS": "0"}
        stack = EmbeddedStack(Path(directory), api_key=KEY, api_port=choose_free(), environment=environment)
        async with stack, HttpClient(stack.api_url, KEY, IN_FLIGHT) as client:
            await client.request("POST", "/api/v1/workflows", json.dumps(WORKFLOWS["seq3"]).encode())
            load = await closed_loop(client, count, IN_FLIGHT, EXECUTIONS, lambda _: BODY)
            if load.statuses != {200: count}:
                raise SystemExit(f"not every execution ended in time: {load.statuses}")
            connection = await connect(stack.nats_url, "bench")
            before = await state(connection, Path(directory))
            publisher = await Publisher(connection).start()
            compaction = Compaction(connection, publisher, 24, lambda: time.time() + LATER_S)
            began = time.perf_counter()
            compacted = sum([await compaction.compact(partition) for partition in range(PARTITION_COUNT)])
            taken_s = time.perf_counter() - began
            after = await state(connection, Path(directory))
            await connection.close()
    return {"before": before, "after": after, "compacted": compacted, "per_second": round(compacted / taken_s)}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000)
    print(json.dumps(uvloop.run(measure(parser.parse_args().count)), indent=2))


if __name__ == "__main__":
    main()
