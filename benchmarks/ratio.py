"""This version beside another one: executions of three steps per second, and the processor that each part needs.

    git worktree add ../before 1434f49 && make -C ../before venv
    python benchmarks/ratio.py ../before                          # side by side, five pairs of 20 s
    python benchmarks/ratio.py ../before --in-turn --pairs 7      # one after the other, for a quiet machine

Side by side both have the same machine at the same moment, so whatever else happens on it happens to both. One after
the other each has the machine to itself, and the order changes from pair to pair. The load is this checkout's for both.
A ratio is this version to the other one: of executions per second more is better, of processor less.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BENCH = Path(__file__).with_name("bench.py")
START_S_MAX = 120.0
END_S_MAX = 120.0
"""Beyond the measurement itself: the last executions, the projection, and the end of the stack."""


class Run:
    """One measurement of one version."""

    def __init__(self, checkout: Path, arguments: argparse.Namespace) -> None:
        self._python = checkout / ".venv" / "bin" / "python"
        self._seconds = arguments.seconds
        self._options = ["--only", "seq3", "--on-signal", "--seconds", str(arguments.seconds)]
        self._options += ["--durability", arguments.durability]
        self._process: asyncio.subprocess.Process

    async def ready(self) -> None:
        """Start the stack, and return when the load could begin."""
        self._process = await asyncio.create_subprocess_exec(
            self._python, BENCH, *self._options, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        assert self._process.stderr is not None
        async with asyncio.timeout(START_S_MAX):
            said = [line async for line in _until_ready(self._process.stderr)]
        if said[-1:] != [b"ready\n"]:
            raise SystemExit(f"{self._python} did not start: {b''.join(said).decode(errors='replace')}")

    async def figures(self) -> dict[str, Any]:
        """Let the load begin, and return what was measured."""
        async with asyncio.timeout(self._seconds + END_S_MAX):
            output, errors = await self._process.communicate(b"\n")
        if self._process.returncode:
            raise SystemExit(f"{self._python} failed: {errors.decode(errors='replace')}")
        figures: dict[str, Any] = json.loads(output)["seq3"]
        return figures


async def _until_ready(lines: asyncio.StreamReader) -> Any:
    async for line in lines:
        yield line
        if line == b"ready\n":
            return


async def pair(before: Path, arguments: argparse.Namespace, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure both versions once; return the figures of the other one and of this one."""
    runs = [Run(before, arguments), Run(ROOT, arguments)]
    if not arguments.in_turn:
        await asyncio.gather(*(run.ready() for run in runs))
        other, this = await asyncio.gather(*(run.figures() for run in runs))
        return other, this
    found = {}
    for index in (0, 1) if number % 2 == 0 else (1, 0):
        await runs[index].ready()
        found[index] = await runs[index].figures()
    return found[0], found[1]


def ratios(other: dict[str, Any], this: dict[str, Any]) -> dict[str, float]:
    """Return this version's figures as parts of the other one's."""
    cpu_before, cpu_now = other["cpu_us_per_execution"], this["cpu_us_per_execution"]
    parts = [name for name in cpu_now if name != "generator"]
    return {
        "per_second": this["per_second"] / other["per_second"],
        "cpu": sum(cpu_now[name] for name in parts) / sum(cpu_before[name] for name in parts),
        **{f"cpu_{name}": cpu_now[name] / cpu_before[name] for name in parts},
    }


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all pairs; return the medians of their ratios and figures."""
    found = []
    for number in range(arguments.pairs):
        other, this = await pair(arguments.before.resolve(), arguments, number)
        found.append((ratios(other, this), other, this))
        print(json.dumps({"pair": number, "other": other, "this": this}), file=sys.stderr, flush=True)
    return {
        "how": "in turn" if arguments.in_turn else "side by side",
        "durability": arguments.durability,
        "ratio_medians": {
            name: round(statistics.median(ratio[name] for ratio, _, _ in found), 3) for name in found[0][0]
        },
        "per_second_ratios": [round(ratio["per_second"], 3) for ratio, _, _ in found],
        "cpu_ratios": [round(ratio["cpu"], 3) for ratio, _, _ in found],
        "cpu_us_medians": {
            name: [
                round(statistics.median(one["cpu_us_per_execution"][name] for one in side))
                for side in zip(*((other, this) for _, other, this in found), strict=True)
            ]
            for name in found[0][1]["cpu_us_per_execution"]
        },
    }


def main() -> None:
    """Print the ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the other version, with its virtual environment")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of load in each measurement")
    parser.add_argument("--in-turn", action="store_true", help="one after the other, not side by side")
    parser.add_argument("--durability", choices=("fsync", "interval"), default="fsync")
    print(json.dumps(asyncio.run(measure(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
