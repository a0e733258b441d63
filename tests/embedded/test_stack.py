import json
import os
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from millrace.embedded import (
    BackgroundStack,
    EmbeddedError,
    EmbeddedStack,
    PortTakenError,
    StackLockedError,
    services,
)
from millrace.embedded.ports import choose_free

PROGRAMS = Path(__file__).parent / "programs"
EXTERNAL = {"nats_url": "nats://elsewhere:4222", "database_url": "postgresql://elsewhere/millrace"}


@pytest.fixture
def fake_services(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every service is `programs/fake_service.py`; returns the environment that finds it."""
    for service in services.SERVICES:
        monkeypatch.setitem(services.SERVICES, service, "fake_service")  # type: ignore[arg-type]
    return {"PYTHONPATH": str(PROGRAMS)}


@pytest.fixture
async def stack(tmp_path: Path, fake_services: dict[str, str]) -> AsyncIterator[EmbeddedStack]:
    wanted = {"api": 1, "orchestrator": 2}
    stack = EmbeddedStack(tmp_path, services=wanted, environment=fake_services, **EXTERNAL)
    async with stack:
        yield stack


def environment_of(stack: EmbeddedStack, name: str) -> dict[str, str]:
    with urllib.request.urlopen(f"{stack.url(name)}/environment") as answer:
        environment: dict[str, str] = json.load(answer)
        return environment


async def test_as_many_processes_run_as_were_asked_for(stack: EmbeddedStack):
    assert stack.supervisor.names == ["api", "orchestrator-1", "orchestrator-2"]
    addresses = {stack.url(name) for name in stack.supervisor.names}
    assert len(addresses) == 3
    assert stack.api_url == stack.url("api")


async def test_services_are_told_where_everything_is(stack: EmbeddedStack):
    told = environment_of(stack, "orchestrator-2")
    assert told["MILLRACE_INSTANCE"] == "orchestrator-2"
    assert told["MILLRACE_NATS_URL"] == EXTERNAL["nats_url"]
    assert told["MILLRACE_DATABASE_URL"] == EXTERNAL["database_url"]
    assert told["MILLRACE_DATA_DIR"] == str(stack.directory.root)
    assert told["MILLRACE_DURABILITY"] == "fsync"
    assert told["MILLRACE_BLOB_URL"] == stack.directory.blobs.as_uri()
    assert told["MILLRACE_API_KEY"] == stack.api_key
    assert told["PATH"] == os.environ["PATH"]
    assert stack.url("orchestrator-2").endswith(f"{told['MILLRACE_OPS_HOST']}:{told['MILLRACE_OPS_PORT']}")
    api = environment_of(stack, "api")
    assert stack.api_url == f"http://{api['MILLRACE_API_HOST']}:{api['MILLRACE_API_PORT']}"


async def test_a_killed_service_comes_back_at_its_address(stack: EmbeddedStack):
    address = stack.url("orchestrator-1")
    killed = stack.kill("orchestrator-1")
    await stack.wait_ready("orchestrator-1")
    assert stack.supervisor.pid("orchestrator-1") != killed
    assert stack.url("orchestrator-1") == address
    assert environment_of(stack, "orchestrator-1")


async def test_addresses_and_key_stay_from_start_to_start(tmp_path: Path, fake_services: dict[str, str]):
    seen = []
    for _ in range(2):
        async with EmbeddedStack(tmp_path, services={"api": 1}, environment=fake_services, **EXTERNAL) as stack:
            seen.append((stack.api_url, stack.api_key))
    assert seen[0] == seen[1]
    assert (tmp_path / "secrets" / "api_key").stat().st_mode & 0o777 == 0o600


async def test_a_directory_has_one_stack_at_a_time(tmp_path: Path, fake_services: dict[str, str]):
    async with EmbeddedStack(tmp_path, services={}, **EXTERNAL):
        with pytest.raises(StackLockedError, match=f"in use by process {os.getpid()}"):
            await EmbeddedStack(tmp_path, services={}, **EXTERNAL).start()
    async with EmbeddedStack(tmp_path, services={}, **EXTERNAL):
        pass


async def test_a_port_asked_for_by_number_is_that_port_or_an_error(tmp_path: Path, fake_services: dict[str, str]):
    port = choose_free()

    def api_at_port(directory: str) -> EmbeddedStack:
        return EmbeddedStack(
            tmp_path / directory, services={"api": 1}, api_port=port, environment=fake_services, **EXTERNAL
        )

    async with api_at_port("first") as stack:
        assert stack.api_url == f"http://127.0.0.1:{port}"
        with pytest.raises(PortTakenError, match="is taken"):
            await api_at_port("second").start()


async def test_a_stack_that_does_not_start_lets_go_of_everything(tmp_path: Path, fake_services: dict[str, str]):
    broken = EmbeddedStack(tmp_path, services={"telemetry": 1}, environment={"PYTHONPATH": ""}, **EXTERNAL)
    with pytest.raises(EmbeddedError, match="No module named fake_service"):
        await broken.start()
    async with EmbeddedStack(tmp_path, services={"telemetry": 1}, environment=fake_services, **EXTERNAL) as stack:
        assert stack.supervisor.names == ["telemetry"]


async def test_servers_with_an_address_are_not_run(tmp_path: Path):
    async with EmbeddedStack(tmp_path, services={}, **EXTERNAL) as stack:
        assert stack.supervisor.names == []
        assert (stack.nats_url, stack.database_url) == tuple(EXTERNAL.values())


async def test_what_was_not_asked_for_has_no_address(tmp_path: Path):
    async with EmbeddedStack(tmp_path, services={}, servers=()) as stack:
        with pytest.raises(EmbeddedError, match="no nats"):
            _ = stack.nats_url
        with pytest.raises(EmbeddedError, match='no "api"'):
            _ = stack.api_url


@pytest.mark.parametrize(
    "wrong", [{"services": {"orchestra": 1}}, {"services": {"api": 17}}, {"services": {"api": -1}}, {"durability": "x"}]
)
def test_impossible_wishes_are_refused_before_anything_happens(tmp_path: Path, wrong: dict[str, object]):
    with pytest.raises(ValueError, match=r"services|durability"):
        EmbeddedStack(tmp_path / "data", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "data").exists()


@pytest.fixture
def background(tmp_path: Path, fake_services: dict[str, str]) -> Iterator[BackgroundStack]:
    stack = EmbeddedStack(tmp_path, services={"orchestrator": 1}, environment=fake_services, **EXTERNAL)
    with stack.in_background() as running:
        yield running


def test_a_stack_runs_without_an_event_loop(background: BackgroundStack):
    killed = background.kill("orchestrator")
    background.wait_ready("orchestrator")
    assert background.pid("orchestrator") != killed
    background.restart("orchestrator")
    assert background.restarts("orchestrator") == 2
    background.kill("orchestrator")
    with pytest.raises(TimeoutError):
        background.wait_ready("orchestrator", timeout_s=0.001)


def run_state(pid: int | None) -> str:
    """`T` for a process that stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_each_of_several_processes_is_suspended_resumed_and_killed_by_its_name(
    tmp_path: Path, fake_services: dict[str, str]
):
    names = ["agent-runner-1", "agent-runner-2", "agent-runner-3"]
    stack = EmbeddedStack(tmp_path, services={"agent-runner": 3}, environment=fake_services, **EXTERNAL)
    with stack.in_background() as running:
        assert stack.supervisor.names == names
        pids = [running.pid(name) for name in names]
        assert running.suspend("agent-runner-2") == pids[1]
        until(lambda: [run_state(pid) == "T" for pid in pids] == [False, True, False])
        assert running.resume("agent-runner-2") == pids[1]
        until(lambda: run_state(pids[1]) != "T")
        running.suspend("agent-runner-3")
        running.kill("agent-runner-3")
        running.wait_ready("agent-runner-3")
        assert [running.pid(name) for name in names][:2] == pids[:2]
        assert running.pid("agent-runner-3") != pids[2]
        running.suspend("agent-runner-1")  # the stack stops all the same


def until(condition: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + 60, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def test_a_background_stack_that_does_not_start_ends_its_thread(tmp_path: Path, background: BackgroundStack):
    locked = EmbeddedStack(tmp_path, services={}, **EXTERNAL).in_background()
    with pytest.raises(StackLockedError), locked:
        pass
    assert not locked._thread.is_alive()
