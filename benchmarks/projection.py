"""What the projection costs: a real NATS, a real PostgreSQL, the telemetry service, and logs at a steady rate.

    python benchmarks/projection.py --rate 600 --seconds 20
    python benchmarks/projection.py --rate 0 --seconds 5     # as fast as it goes: publish first, then catch up

Prints one JSON object. CPU is of one core, user and system, from /proc, while messages are projected. The transitions
of an execution are 10 ms apart, so that, as in life, they come in different batches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from millrace.embedded import EmbeddedStack
from millrace_shared import subjects
from millrace_shared.bus.connection import connect
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.ids import new_id
from millrace_shared.messages import Transition
from millrace_shared.testing.logs import simple_log
from millrace_telemetry.adapters.store import Store

TICK_S = 0.01
CATCH_UP_S = 120.0
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds that the processes have used, children that ended included."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / _CLOCK_TICKS


def rss_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def family(pid: int) -> list[int]:
    """Return `pid` and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, []))
    return found


async def publish(publisher: Publisher, rate: float, seconds: float, steps: int) -> int:
    """Publish logs at `rate` executions/s, or as fast as possible when it is 0. Returns the number of messages."""
    began = time.monotonic()
    due: list[list[Transition]] = [[] for _ in range(steps + 1)]
    sent = started = 0
    while True:
        now = time.monotonic() - began
        wanted = int(min(now, seconds) * rate) if rate else started + (100 if now < seconds else 0)
        for _ in range(wanted - started):
            for tick, transition in enumerate(simple_log(new_id(), at=time.time(), steps=steps)):
                due[tick].append(transition)
        started = max(started, wanted)
        batch, due = due[0], [*due[1:], []]
        if batch:
            results = await publisher.publish_all(
                [Outgoing(subjects.log(one.execution_id), encode(one)) for one in batch]
            )
            for result in results:
                if not isinstance(result, int):
                    raise result
            sent += len(batch)
        if now >= seconds and not any(due):
            return sent
        if rate:
            await asyncio.sleep(max(0.0, TICK_S - (time.monotonic() - began - now)))


async def measure(rate: float, seconds: float, steps: int, durability: str) -> dict[str, object]:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory(prefix="millrace-benchmark-") as directory:
        stack = EmbeddedStack(Path(directory), durability=durability, services={"telemetry": 1})  # type: ignore[arg-type]
        async with stack:
            bus = await connect(stack.nats_url, "benchmark")
            publisher = await Publisher(bus).start()
            store = await Store.open(stack.database_url, "EVENTS")
            telemetry, postgres, nats = (stack.supervisor.pid(name) for name in ("telemetry", "postgres", "nats"))
            assert telemetry
            assert postgres
            assert nats
            at_rest_mb = rss_mb(telemetry)
            idle_from, idle_at = cpu_s([telemetry]), time.monotonic()
            await asyncio.sleep(3.0)
            idle_share = (cpu_s([telemetry]) - idle_from) / (time.monotonic() - idle_at)
            groups = {"telemetry": [telemetry], "postgres": family(postgres), "nats": [nats]}
            before = {name: cpu_s(pids) for name, pids in groups.items()}
            began = time.monotonic()
            sent = await publish(publisher, rate, seconds, steps)
            published_s = time.monotonic() - began
            while (await store.offset()).sequence < sent:
                if time.monotonic() - began > seconds + CATCH_UP_S:
                    raise TimeoutError(f"{sent} messages were not projected within {CATCH_UP_S:g} s")
                await asyncio.sleep(0.01)
            took_s = time.monotonic() - began
            used = {name: cpu_s(pids) - before[name] for name, pids in groups.items()}
            rows = (await store.counts())["rows"]
            await store.close()
            await bus.close()
            return {
                "durability": durability,
                "executions_per_s": round(sent / (steps + 1) / took_s, 1),
                "transitions": sent,
                "transitions_per_s": round(sent / took_s, 1),
                "events_per_s": round(sent / (steps + 1) * (2 * steps + 2) / took_s, 1),
                "published_s": round(published_s, 2),
                "behind_at_the_end_s": round(took_s - published_s, 3),
                "cpu_cores": {name: round(used_s / took_s, 3) for name, used_s in used.items()},
                "cpu_us_per_transition": {name: round(used_s / sent * 1e6, 1) for name, used_s in used.items()},
                "telemetry_rss_mb": {"at_rest": round(at_rest_mb, 1), "after": round(rss_mb(telemetry), 1)},
                "telemetry_cpu_at_rest": round(idle_share, 4),
                "rows": rows,
            }


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=600.0, help="executions per second; 0: as fast as it goes")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=3, help="steps of each execution")
    parser.add_argument("--durability", choices=("fsync", "interval"), default="interval")
    arguments = parser.parse_args()
    result = asyncio.run(measure(arguments.rate, arguments.seconds, arguments.steps, arguments.durability))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
