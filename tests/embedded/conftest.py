import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millrace.embedded.events import EventKind, ProcessEvent
from millrace.embedded.identity import started_at
from millrace.embedded.process import ProcessSpec

WORKER = Path(__file__).parent / "programs" / "worker.py"
DEADLINE_S = 60.0


class Story:
    """Everything a supervisor said, and a way to wait until it has said something."""

    def __init__(self) -> None:
        self.events: list[ProcessEvent] = []
        self._news = asyncio.Event()

    def __call__(self, event: ProcessEvent) -> None:
        self.events.append(event)
        self._news.set()

    def told(self, *kinds: EventKind) -> list[tuple[str, EventKind]]:
        return [(event.name, event.kind) for event in self.events if not kinds or event.kind in kinds]

    async def until(self, kind: EventKind, *, times: int = 1) -> list[ProcessEvent]:
        """The events of a kind, once there are that many."""
        async with asyncio.timeout(DEADLINE_S):
            while len(seen := [event for event in self.events if event.kind is kind]) < times:
                self._news.clear()
                await self._news.wait()
        return seen


@pytest.fixture
async def story() -> Story:
    return Story()


@pytest.fixture
def worker(tmp_path: Path) -> Callable[..., ProcessSpec]:
    """Makes specs of `programs/worker.py`; each has `tmp_path / <name>` for its signs."""

    def spec(name: str = "worker", *behaviour: str, grace_s: float = 60.0, ready_s: float = 60.0) -> ProcessSpec:
        directory = tmp_path / name
        directory.mkdir()

        async def forget() -> None:
            (directory / "ready").unlink(missing_ok=True)

        async def ready() -> bool:
            return (directory / "ready").exists()

        return ProcessSpec(
            name=name,
            argv=(sys.executable, str(WORKER), str(directory), *behaviour),
            env=os.environ,
            prepare=forget,
            ready=ready,
            stop_grace_s=grace_s,
            ready_timeout_s=ready_s,
        )

    return spec


@pytest.fixture
def gone() -> Callable[[int], None]:
    """Waits until a process is no more."""

    def wait(pid: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while started_at(pid) is not None:
            assert time.monotonic() < deadline, f"process {pid} is still there"
            time.sleep(0.01)

    return wait


@pytest.fixture
def tmp_path(server_directory: Callable[[], Path]) -> Path:
    """A directory where Postgres can run as root's other account, see `server_directory`."""
    return server_directory()


@pytest.fixture
def sleeper() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes that do nothing, and ends them with the test, however that ends."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**options: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
