"""Runs an agent in a child process and kills it before, or after, it adds a given entry to its journal.

Imports what agents need once, and forks for each run: a run takes milliseconds instead of seconds. Takes
`[execution id, attempt, entry, moment]` on each line of its input.
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from millrace_agent_runner.adapters.journal import StoredJournal, StoredJournals
from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.domain.attempt import Attempt, current, spec_of
from millrace_agent_runner.executors.agent import run as _imported_before_the_fork  # noqa: F401
from millrace_agent_runner.executors.agent.executor import AgentExecutor
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads
from millrace_shared.blobs import Blobs
from millrace_shared.bus.connection import connect
from millrace_shared.bus.publisher import Publisher
from millrace_shared.messages import RunStep

NATS_URL, OPENAI_URL, DIRECTORY = sys.argv[1:4] if len(sys.argv) > 3 else ("", "", "")


async def note(number: int) -> str:
    """Write a number down: a tool that must not be repeated."""
    path = Path(sys.argv[3]) / current.get().step.execution_id
    with path.open("a") as file:
        file.write(f"{number}\n")
    return f"noted {number}"


class Unheard:
    def llm_call(self, fact: Any) -> None: ...
    def token_delta(self, fact: Any) -> None: ...


def step_of(execution_id: str, attempt: int) -> RunStep:
    agent = {"model": "openai:m", "tools": [{"name": "note", "config": {"call": "killed_agent:note"}}]}
    return RunStep(
        execution_id=execution_id,
        workspace="default",
        workflow_id="w",
        workflow_name="w",
        workflow_version=1,
        step="ask",
        attempt=attempt,
        kind="agent",
        timeout_s=60.0,
        deadline=time.time() + 60,
        spec=msgspec.Raw(msgspec.json.encode({"agent": agent})),
    )


def kill_at(entry: int, moment: str) -> None:
    """Have the process killed when it adds its entry of that number."""
    append, added = StoredJournal.append, 0

    async def killed(self: StoredJournal, one: Any) -> None:
        nonlocal added
        if (added, moment) == (entry, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        await append(self, one)
        if (added, moment) == (entry, "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        added += 1

    StoredJournal.append = killed  # type: ignore[method-assign]


async def perform(execution_id: str, attempt: int) -> dict[str, Any]:
    connection = await connect(NATS_URL, "runner")
    publisher = await Publisher(connection).start()
    journals = StoredJournals(connection, publisher, Blobs(f"file://{DIRECTORY}/blobs"), f"runner-{attempt}")
    step = step_of(execution_id, attempt)
    python = PythonExecutor(Functions(("killed_agent",)), Threads(1))
    agents = AgentExecutor(Unheard(), journals, HttpExecutor(Allowed()), python, {}, OPENAI_URL)
    work = Attempt(step, spec_of(step), {"prompt": "Note it."}, (), time.time() + 60, resumes=attempt > 1)
    return {"output": await agents(work)}


def child(execution_id: str, attempt: int, entry: int, moment: str, out: int) -> None:
    if moment:
        kill_at(entry, moment)
    try:
        said = asyncio.run(perform(execution_id, attempt))
    except Exception as error:  # noqa: BLE001  the test is told
        said = {"error": repr(error)}
    os.write(out, json.dumps(said).encode() + b"\n")
    os._exit(0)


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(*json.loads(line), 1)
        os.write(1, json.dumps({"pid": pid}).encode() + b"\n")
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            os.write(1, b'{"died":true}\n')


if __name__ == "__main__":
    main()
