"""Code of a model: it computes, and whatever else it tries ends within its bounds."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from millrace_agent_runner.errors import StepFailure, TerminalFailure
from millrace_agent_runner.executors.agent.tools.sandbox import PROCESSES_MAX, Sandbox, sandbox

HOSTILE = {
    "hangs": "while True: pass",
    "sleeps": "import time\ntime.sleep(10_000)",
    "eats memory": "a = [1]\nwhile True: a = a + a",
    "eats memory at once": "'x' * 10**12",
    "counts far": "9 ** 9 ** 9",
    "falls": "def f(): return f()\nf()",
    "prints without end": "while True: print('x' * 1000)",
}
FORBIDDEN = {
    "forks": "import os\nos.fork()",
    "runs a program": "import subprocess\nsubprocess.run(['id'])",
    "opens a socket": "import socket",
    "reads a file": "open('/etc/passwd').read()",
    "writes a file": "open('/tmp/x', 'w').write('x')",
    "reads the environment": "import os\nos.environ['PATH']",
    "is no Python": "def",
    "is wrong": "1 / 0",
}


@pytest.fixture
async def processes() -> AsyncIterator[Sandbox]:
    running = Sandbox()
    yield running
    await running.close()


@pytest.fixture
def run(processes: Sandbox) -> Any:
    async def perform(code: str, **config: Any) -> Any:
        return await sandbox({"timeout_s": 2, **config}, processes).call({"code": code}, None)  # type: ignore[arg-type]

    return perform


async def test_code_computes(run: Any) -> None:
    code = "print('hello')\nsum(n * n for n in range(10))"
    assert await run(code) == {"result": 285, "printed": "hello\n"}
    assert (await run("{'a': [1, None, 2.5]}"))["result"] == {"a": [1, None, 2.5]}
    assert "len" in (await run("len"))["result"]  # JSON has nothing like it


@pytest.mark.parametrize("code", HOSTILE.values(), ids=HOSTILE)
async def test_code_that_hits_a_bound_is_stopped(run: Any, code: str) -> None:
    with pytest.raises(TerminalFailure) as caught:
        await run(code)
    assert (caught.value.category, caught.value.code) == ("sandbox_violation", "sandbox_violation")
    assert (await run("1 + 1"))["result"] == 2  # the next is not disturbed


@pytest.mark.parametrize("code", FORBIDDEN.values(), ids=FORBIDDEN)
async def test_code_that_fails_is_told(run: Any, code: str) -> None:
    with pytest.raises(StepFailure) as caught:
        await run(code)
    assert caught.value.category == "tool_error"


async def test_a_run_that_is_given_up_leaves_the_sandbox_to_others(run: Any) -> None:
    for _ in range(PROCESSES_MAX + 1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await run("while True: pass", timeout_s=60)
    assert (await run("1 + 1"))["result"] == 2


async def test_a_bound_is_told_when_the_author_says_so(run: Any) -> None:
    with pytest.raises(TerminalFailure) as caught:
        await run("while True: pass", on_violation="tell")
    assert caught.value.category == "tool_error"
