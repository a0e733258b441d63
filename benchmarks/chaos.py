"""Three orchestrators and three runners under load, while some are killed and others made to stand still.

    python benchmarks/chaos.py                                # five minutes; a table to standard output
    python benchmarks/chaos.py --seconds 60 --rate 20 --seed 7

Every few seconds a random orchestrator or runner gets SIGKILL, and is started again by the supervisor, or SIGSTOP, and
SIGCONT half a minute later: that one wakes up with everything it believed. At least one of each is always left alone.
When all is over the logs are counted. The status is 1 when an execution was lost, got stuck, or did anything twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from chaos_verdict import Accepted, Fault, Takeover, Verdict, judge

from millrace.embedded import EmbeddedStack
from millrace.embedded.ports import choose_free
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.log_reader import read_log, read_subject
from millrace_shared.codec import decode_fact, decode_transition
from millrace_shared.messages import StepStarted

KEY = "chaos-key"
SERVICES = {"api": 1, "orchestrator": 3, "agent-runner": 3, "telemetry": 1}
FUNCTIONS = "millrace_agent_runner.functions.testing"
ENVIRONMENT = {
    "MILLRACE_PYTHON_MODULES": "millrace_agent_runner.functions",
    # One runner that is left alone shall have room for the work of all: what is asked here is how soon it gets it, not
    # how long work waits for places that there are too few of.
    "MILLRACE_RUNNER_SLOTS": "96",
}
READERS = 32
ANSWER_S_MAX = 30.0
TRIES_MAX = 5
"""A request without an answer is made again: an execution's name makes that harmless."""
RETURN_S_MAX = 120.0
"""A process that was killed is ready again by then, or the run has failed."""
TAKEOVER_S_GOAL = 5.0
STEP_S = 0.2
LONG_S = 6.0


def _sleep(seconds: float, *needs: str, **more: Any) -> dict[str, Any]:
    return {"python": f"{FUNCTIONS}:sleep", "input": {"seconds": seconds}, "needs": list(needs), **more}


def _workflow(name: str, steps: dict[str, Any]) -> dict[str, Any]:
    retry = {"max_attempts": 5, "initial": "200ms", "max": "500ms"}
    return {"version": 1, "name": name, "defaults": {"retry": retry}, "limits": {"timeout": "10m"}, "steps": steps}


WORKFLOWS: dict[str, tuple[dict[str, Any], float]] = {
    "chaos-sequence": (
        _workflow(
            "chaos-sequence", {f"s{index}": _sleep(STEP_S, *([f"s{index - 1}"] if index else [])) for index in range(5)}
        ),
        STEP_S,
    ),
    "chaos-fan": (
        _workflow(
            "chaos-fan",
            {
                "first": _sleep(STEP_S),
                "each": _sleep(STEP_S, "first", for_each=list(range(8))),
                "last": _sleep(STEP_S, "each"),
            },
        ),
        STEP_S,
    ),
    "chaos-retry": (
        _workflow(
            "chaos-retry",
            {
                "flaky": {"python": f"{FUNCTIONS}:fail", "input": {"times": 2, "result": "at last"}},
                "after": _sleep(STEP_S, "flaky"),
            },
        ),
        0.5,
    ),
    "chaos-wait": (
        _workflow(
            "chaos-wait",
            {"a": _sleep(STEP_S), "pause": {"needs": ["a"], "wait": {"delay": "2s"}}, "b": _sleep(STEP_S, "pause")},
        ),
        2.0,
    ),
    "chaos-long": (_workflow("chaos-long", {"a": _sleep(LONG_S), "b": _sleep(STEP_S, "a")}), LONG_S),
}
"""Definitions, and how long the log of each is silent at most when nothing goes wrong, in seconds."""


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        seconds: how long executions are started and faults made.
        rate: executions started in a second.
        fault_every_s: the mean time from one fault to the next.
        stop_s: how long a stopped process stands still.
        settle_s: how long what was accepted may take to end once all is quiet.
        seed: of the faults and of the choice of workflows.
    """

    seconds: float = 300.0
    rate: float = 10.0
    fault_every_s: float = 5.0
    stop_s: float = 30.0
    settle_s: float = 120.0
    seed: int = 1


class Chaos:
    """One run on a stack of several orchestrators and runners, which is ready.

    Args:
        stack: runs in this event loop, with the api key `key`.
        plan: what to do to it.
    """

    def __init__(self, stack: EmbeddedStack, plan: Plan) -> None:
        self._stack = stack
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._stopped: dict[str, tuple[float, Fault]] = {}
        self._returning: list[asyncio.Task[None]] = []
        self._accepted: list[Accepted] = []
        self.refused: Counter[str] = Counter()
        self.faults: list[Fault] = []

    async def run(self) -> Verdict:
        """Load, break, wait until all is settled, and count."""
        async with contextlib.AsyncExitStack() as opened:
            headers = {"Authorization": f"Bearer {self._stack.api_key}"}
            client = await opened.enter_async_context(
                httpx.AsyncClient(base_url=f"{self._stack.api_url}/api/v1", headers=headers, timeout=ANSWER_S_MAX)
            )
            for definition, _ in WORKFLOWS.values():
                saved = await client.post("/workflows", json=definition)
                if saved.status_code != 201:
                    raise SystemExit(f"{definition['name']} was not saved: {saved.text}")
            until = time.monotonic() + self._plan.seconds
            try:
                await asyncio.gather(self._load(client, until), self._break(until))
            finally:
                self._resume(time.monotonic() + 2 * self._plan.stop_s)
                await asyncio.gather(*self._returning)
            connection = await connect(self._stack.nats_url, "chaos")
            opened.push_async_callback(connection.close)
            await self._settle(connection)
            await self._each(lambda one: self._observe(connection, client, one))
        runners = [one.name for one in self._stack.instances if one.service == "agent-runner"]
        return judge(self._accepted, self.faults, runners)

    # Load.

    async def _load(self, client: httpx.AsyncClient, until: float) -> None:
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                due = time.monotonic()
                if due >= until:
                    return
                name = self._random.choice(list(WORKFLOWS))
                group.create_task(self._start(client, name, number))
                await asyncio.sleep(max(0.0, due + 1 / self._plan.rate - time.monotonic()))

    async def _start(self, client: httpx.AsyncClient, name: str, number: int) -> None:
        body = {"workflow": name, "input": {}, "execution_name": f"{name}-{number}"}
        for _ in range(TRIES_MAX):
            try:
                answer = await client.post("/executions", json=body)
            except httpx.TransportError:
                continue
            if answer.is_success:  # 202, or 200 when the answer to an earlier try was lost
                self._accepted.append(Accepted(str(answer.json()["execution_id"]), name, WORKFLOWS[name][1]))
            else:
                self.refused[str(answer.status_code)] += 1
            return
        self.refused["no answer"] += 1

    # Faults.

    async def _break(self, until: float) -> None:
        while True:
            pause_s = self._random.uniform(0.5, 1.5) * self._plan.fault_every_s
            await asyncio.sleep(max(0.0, min(pause_s, until - time.monotonic())))
            self._resume(time.monotonic())
            if time.monotonic() >= until:
                return
            victims = [*self._expendable("orchestrator"), *self._expendable("agent-runner")]
            if victims:
                self._strike(self._random.choice(victims), self._random.choice((signal.SIGKILL, signal.SIGSTOP)))

    def _expendable(self, service: str) -> list[str]:
        """Processes of a service that may be struck: those that are well, unless only one is."""
        names = [one.name for one in self._stack.instances if one.service == service]
        well = [name for name in names if name not in self._stopped and self._stack.supervisor.is_ready(name)]
        return well if len(well) > 1 else []

    def _strike(self, name: str, number: signal.Signals) -> None:
        self._stack.kill(name, number)
        fault = Fault(time.time(), name, number.name)
        self.faults.append(fault)
        if number is signal.SIGSTOP:
            self._stopped[name] = time.monotonic() + self._plan.stop_s, fault
        else:
            self._returning.append(asyncio.create_task(self._note_return(fault), name=f"return of {name}"))

    def _resume(self, now: float) -> None:
        for name in [name for name, (until, _) in self._stopped.items() if until <= now]:
            _, fault = self._stopped.pop(name)
            self._stack.kill(name, signal.SIGCONT)
            fault.over_at = time.time()

    async def _note_return(self, fault: Fault) -> None:
        await self._stack.supervisor.wait_ready(fault.process, RETURN_S_MAX)
        fault.over_at = time.time()

    # What came of it.

    async def _settle(self, connection: Connection) -> None:
        """Wait until all that was accepted has ended, or its time is up."""
        deadline = time.monotonic() + self._plan.settle_s
        while time.monotonic() < deadline:
            await self._each(lambda one: self._read(connection, one), [one for one in self._accepted if not one.final])
            if all(one.final for one in self._accepted):
                return
            await asyncio.sleep(0.5)

    async def _read(self, connection: Connection, one: Accepted) -> None:
        one.log = [decode_transition(stored.payload) for stored in await read_log(connection, one.execution_id)]

    async def _observe(self, connection: Connection, client: httpx.AsyncClient, one: Accepted) -> None:
        """Read the whole log anew, since something may have been appended to it after its end, and all else."""
        await self._read(connection, one)
        subject = subjects.fact(one.execution_id, "step_started")
        facts = [decode_fact(stored.payload) async for stored in read_subject(connection, "TELEMETRY", subject)]
        one.starts = [fact for fact in facts if isinstance(fact, StepStarted)]
        one.status = str((await client.get(f"/executions/{one.execution_id}")).json().get("status"))

    async def _each(self, act: Any, ones: Iterable[Accepted] | None = None) -> None:
        waiting = iter(list(self._accepted if ones is None else ones))

        async def reader() -> None:
            for one in waiting:
                await act(one)

        await asyncio.gather(*(reader() for _ in range(READERS)))


def table(chaos: Chaos, verdict: Verdict) -> dict[str, Any]:
    """Return the figures by their names, as they are printed."""
    count = sum(verdict.ended.values())
    return {
        "faults": dict(Counter(f"{fault.signal} {fault.process.rstrip('-0123456789')}" for fault in chaos.faults)),
        "accepted": count + len(verdict.lost) + len(verdict.stuck),
        "refused": dict(chaos.refused),
        "finished": dict(verdict.ended),
        "failed, runners struck": verdict.given_up,
        "lost": len(verdict.lost),
        "stuck": len(verdict.stuck),
        "double completions": len(verdict.double),
        "api and log disagree": len(verdict.disagreeing),
        "attempts of over 0.1 s": verdict.attempts,
        "begun by two runners": verdict.repeated,
        "longest stall, s": {round(max(verdict.stalls_s, default=0.0), 2): verdict.worst},
        **_takeovers(verdict.takeovers),
        "handed out to begun, s": _summary(verdict.pickups_s),
        "ended to decided, s": _summary(verdict.decisions_s),
        "waits over too late, s": _summary(verdict.timers_s),
    }


def _takeovers(takeovers: list[Takeover]) -> dict[str, Any]:
    """Summarise from fault to takeover by who could have taken the work over."""
    others = max((one.healthy + len({hit.process for hit in one.others_hit}) for one in takeovers), default=0)
    classes = {
        "takeover, others well, s": [one.seconds for one in takeovers if one.healthy == others],
        "takeover, some well, s": [one.seconds for one in takeovers if 0 < one.healthy < others],
        "takeover, none well, s": [one.seconds for one in takeovers if one.healthy == 0 < others],
    }
    return {name: _summary(times) for name, times in classes.items()}


def _summary(times: list[float]) -> dict[str, float]:
    if not times:
        return {}
    ordered = sorted(times)
    figures = {"median": statistics.median(ordered), "p99": ordered[int(len(ordered) * 0.99)], "max": ordered[-1]}
    return {"count": len(times), **{name: round(figure, 2) for name, figure in figures.items()}}


def keep(stack: EmbeddedStack, chaos: Chaos, directory: Path) -> None:
    """Write what the processes logged, and when which of them was down, to a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in stack.supervisor.names:
        shutil.copy(stack.supervisor.log_path(name), directory)
    lines = [f"{one.at:.3f} {one.over_at:.3f} {one.signal} {one.process}\n" for one in chaos.faults]
    (directory / "faults.txt").write_text("".join(lines))


async def measure(arguments: argparse.Namespace) -> bool:
    """Start a stack, play the plan on it, print the figures. Returns whether all was well."""
    names = ("seconds", "rate", "fault_every_s", "stop_s", "settle_s", "seed")
    plan = Plan(**{name: getattr(arguments, name) for name in names})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        stack = EmbeddedStack(
            Path(directory),
            durability=arguments.durability,
            services=SERVICES,
            api_key=KEY,
            api_port=choose_free(),  # several stacks that start at the same moment all find the usual one free
            environment=ENVIRONMENT,
        )
        async with stack:
            chaos = Chaos(stack, plan)
            verdict = await chaos.run()
            if arguments.logs is not None:
                keep(stack, chaos, arguments.logs)
    for name, figure in table(chaos, verdict).items():
        shown = ", ".join(f"{key}: {value}" for key, value in figure.items()) if isinstance(figure, dict) else figure
        print(f"{name:<26} {shown}")
    for name in ("lost", "stuck", "double", "disagreeing"):
        for execution_id in getattr(verdict, name)[:10]:
            print(f"{name}: {execution_id}", file=sys.stderr)
    for one in sorted(verdict.takeovers, key=lambda one: -one.seconds):
        if one.seconds > TAKEOVER_S_GOAL:
            print(f"slow takeover: {one}", file=sys.stderr)
    return verdict.is_good


def main() -> int:
    """Print the table; the status is 1 when something was lost, got stuck or happened twice."""
    default = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--durability", choices=("fsync", "interval"), default="fsync")
    parser.add_argument("--seconds", type=float, default=default.seconds)
    parser.add_argument("--rate", type=float, default=default.rate, help="executions started in a second")
    parser.add_argument("--fault-every-s", type=float, default=default.fault_every_s)
    parser.add_argument("--stop-s", type=float, default=default.stop_s, help="how long a stopped process stands still")
    parser.add_argument("--settle-s", type=float, default=default.settle_s)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--logs", type=Path, help="where to leave the logs of all processes, and the list of faults")
    return 0 if asyncio.run(measure(parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
