"""Records the log of a whole stack that runs one of everything, for the tests that replay the logs of every version.

Run it once for each `LOG_VERSION`, with the code that writes that version:

    python tests/recording/record_log.py shared/tests/data/log-v2.jsonl

It writes the transitions in stream order, and beside them the definitions that they were run by. A recording is never
changed: it stands for the logs that are out there.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import msgspec

from millrace.embedded import EmbeddedStack
from millrace_shared.bus.connection import connect
from millrace_shared.bus.log_reader import read_subject

KEY = "recording-key"
DEADLINE_S = 60.0
FINAL = {"completed", "failed", "cancelled", "timeout"}
FUNCTIONS = "millrace_agent_runner.functions"
FIB = {"python": f"{FUNCTIONS}:fib", "input": {"n": 5}}
SLEEP = {"python": f"{FUNCTIONS}.testing:sleep"}


class Session:
    """A client of the stack."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask for something that must be granted."""
        answer = self._http.post(f"/api/v1{path}", json=body or {})
        if answer.status_code not in {200, 202}:
            raise RuntimeError(f"{path} was refused: {answer.text}")
        answered: dict[str, Any] = answer.json()
        return answered

    def start(self, name: str, steps: dict[str, Any], *, data: Any = None, rest: Any = None, **keys: Any) -> str:
        """Save a workflow and start it; return the execution's id."""
        answer = self._http.put(f"/api/v1/workflows/{name}", json={"version": 1, "name": name, **keys, "steps": steps})
        if answer.status_code not in {200, 201}:
            raise RuntimeError(f"{name} was refused: {answer.text}")
        body = {"workflow": name, "input": data or {}, **(rest or {})}
        return str(self.post("/executions", body)["execution_id"])

    def detail(self, execution_id: str) -> dict[str, Any]:
        """Return an execution."""
        found: dict[str, Any] = self._http.get(f"/api/v1/executions/{execution_id}").json()
        return found

    def ended(self, execution_id: str) -> str:
        """Wait for the end of an execution; return its id."""
        self.until(lambda: self.detail(execution_id)["status"] in FINAL, f"the end of {execution_id}")
        return execution_id

    def waits(self, execution_id: str, step: str, status: str = "waiting") -> None:
        """Wait until a step has a status."""

        def has() -> bool:
            steps = {one["step_id"]: one["status"] for one in self.detail(execution_id)["step_executions"]}
            return steps[step] == status

        self.until(has, f"{step} of {execution_id} {status}")

    @staticmethod
    def until(condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"it did not happen: {what}")
            Event().wait(0.02)


def play_basics(session: Session) -> None:
    """Everything of version 1: sequences, branches, items, retries, waits, and every way to end."""
    retry = {"max_attempts": 3, "initial": 0.1, "jitter": False}
    broken = {"python": f"{FUNCTIONS}.testing:fail", "input": {"times": 2, "result": {"ok": True}}, "retry": retry}
    crash = {"python": f"{FUNCTIONS}.testing:crash"}
    session.ended(
        session.start(
            "everything",
            {
                "first": FIB,
                "items": {**FIB, "needs": ["first"], "for_each": [1, 2, 3], "max_parallel": 1},
                "flaky": {**broken, "needs": ["first"]},
                "skipped": {"needs": ["first"], "transform": 1, "when": "inputs.n > 1000"},
                "pause": {"needs": ["first"], "wait": {"delay": 0.2}},
                "ignored": {"needs": ["first"], **crash, "on_error": "continue"},
                "last": {"needs": ["items", "flaky", "pause", "ignored"], "transform": "${{ steps.first.output }}"},
            },
            data={"n": 1},
            rest={"labels": {"team": "a"}, "priority": "high", "execution_name": "named"},
            inputs={"n": {"type": "integer"}},
            limits={"max_parallel": 2},
            outputs={"fib": "${{ steps.last.output }}"},
        )
    )
    cleanup = {"tidy": {"needs": ["fails"], "run": "always", "transform": "tidied"}}
    session.ended(session.start("fails", {"fails": crash, **cleanup, "never": {"needs": ["fails"], "transform": 1}}))
    session.ended(session.start("late", {"slow": {**SLEEP, "input": {"seconds": 60}}}, limits={"timeout": 0.5}))
    cancelled = session.start("stopped", {"slow": {**SLEEP, "input": {"seconds": 60}}})
    session.post(f"/executions/{cancelled}/cancel", {"reason": "enough"})
    session.ended(cancelled)
    session.start("asleep", {"wait": {"wait": {"delay": 3600}}})


def play_composition(session: Session) -> None:
    """Groups in items, plans, other workflows, and loops."""
    session.ended(session.start("called", {"fib": FIB}, outputs={"fib": "${{ steps.fib.output }}"}))
    inner = {"square": {"transform": "${{ inputs.n * inputs.n }}"}}
    planner = {"transform": {"steps": {"made": FIB, "after": {"needs": ["made"], "transform": 1}}}}
    session.ended(
        session.start(
            "composed",
            {
                "each": {"for_each": [1, 2], "input": {"n": "${{ item }}"}, "group": {"steps": inner}},
                "call": {"workflow": "called", "input": {}},
                "planner": planner,
                "planned": {"needs": ["planner"], "plan": "${{ steps.planner.output }}"},
                "loop": {
                    "python": f"{FUNCTIONS}:echo",
                    "input": {"input": "${{ iteration }}"},
                    "repeat": {"until": "output >= 3", "max": 5},
                },
            },
        )
    )


def play_people(session: Session) -> None:
    """Approvals, signals, breakpoints, pauses, and a question that stays open."""
    ask = {"approval": {"message": "Publish?", "deadline": 3600}}
    paid = {"wait": {"signal": "payment", "timeout": 3600}}
    approved = session.start("asks", {"paid": paid, "ask": {"needs": ["paid"], **ask}}, rest={"breakpoints": ["ask"]})
    session.waits(approved, "paid")
    session.post(f"/executions/{approved}/pause", {"reason": "to look at it"})
    session.post(f"/executions/{approved}/signal", {"name": "payment", "data": {"amount": 5}})
    session.post(f"/executions/{approved}/resume")
    session.waits(approved, "ask")
    session.post(f"/executions/{approved}/steps/ask/continue")
    session.post(f"/executions/{approved}/steps/ask/approve", {"note": "fine"})
    session.ended(approved)
    rejected = session.start("asks-again", {"ask": ask})
    session.waits(rejected, "ask")
    session.post(f"/executions/{rejected}/steps/ask/reject", {"note": "no"})
    session.ended(rejected)
    session.waits(session.start("asks-again", {"ask": ask}), "ask")


def play_flow(session: Session) -> None:
    """A gate with a queue, results of the cache, and a retry that takes over what was done."""
    gate = {"concurrency": {"limit": 1, "key": "${{ inputs.customer }}"}, "inputs": {"customer": {"type": "string"}}}
    steps = {"slow": {**SLEEP, "input": {"seconds": 0.3}}}
    gated = [session.start("gated", steps, data={"customer": "acme"}, **gate) for _ in range(2)]
    for execution_id in gated:
        session.ended(execution_id)
    for _ in range(2):
        session.ended(session.start("cached", {"fib": {**FIB, "cache": {"ttl": 3600}}}))
    steps = {"done": FIB, "breaks": {"needs": ["done"], "python": f"{FUNCTIONS}.testing:crash"}}
    failed = session.ended(session.start("retried", steps))
    session.ended(str(session.post(f"/executions/{failed}/retry")["execution_id"]))


def play_agents(session: Session) -> None:
    """An agent whose first call does not fit its budget: it asks, somebody agrees, and it goes on."""
    write = {"agent": "writer", "prompt": "Write.", "budget": {"max_tokens": 200, "on_breach": "ask"}}
    asking = session.start("asks-for-more", {"write": write}, agents={"writer": {"model": "offline:demo"}})
    session.waits(asking, "write")
    session.post(f"/executions/{asking}/steps/write/approve", {"note": "go on"})
    session.ended(asking)


PLAYS = (play_basics, play_composition, play_people, play_flow, play_agents)


async def written(nats_url: str) -> tuple[list[bytes], dict[str, Any]]:
    """Return the transitions in stream order, and the definitions by their hashes."""
    bus = await connect(nats_url, "recording")
    try:
        log = [stored.payload async for stored in read_subject(bus, "EVENTS", "ev.*.*")]
        definitions = {
            stored.subject.removeprefix("def."): msgspec.json.decode(stored.payload)
            async for stored in read_subject(bus, "DEFINITIONS", "def.*")
        }
    finally:
        await bus.close()
    return log, definitions


def main() -> None:
    """Record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--plays", type=int, default=len(PLAYS), help="How many of the plays; 1 is version 1.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        stack = EmbeddedStack(
            Path(directory), api_key=KEY, environment={"MILLRACE_PYTHON_MODULES": FUNCTIONS}, durability="interval"
        )
        headers = {"Authorization": f"Bearer {KEY}"}
        with stack.in_background() as running, httpx.Client(base_url=running.api_url, headers=headers) as http:
            for play in PLAYS[: arguments.plays]:
                play(Session(http))
            log, definitions = asyncio.run(written(running.nats_url))
    arguments.path.write_bytes(b"".join(line + b"\n" for line in log))
    beside = arguments.path.with_suffix(".definitions.json")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(definitions), indent=1) + b"\n")


if __name__ == "__main__":
    main()
