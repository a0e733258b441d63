import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from millrace.embedded.errors import DataDirectoryError, StackLockedError
from millrace.embedded.events import EventKind, ProcessEvent
from millrace.embedded.identity import started_at, working_in
from millrace.embedded.logs import rotate_if_large, tail
from millrace.embedded.ports import FIRST_PORT, LAST_PORT, choose_free, is_free
from millrace.embedded.state import DataDirectory, DirectoryLock, StackState

Sleeper = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    directory = DataDirectory(tmp_path / "data")
    directory.create()
    return directory


def loaded(directory: DataDirectory) -> StackState:
    state = StackState(directory)
    state.load()
    return state


def test_a_secret_is_generated_once_and_private(directory: DataDirectory):
    first = directory.secret("api_key")
    assert len(first) == 48
    assert directory.secret("api_key") == first
    assert directory.secret("other") != first
    assert (directory.secrets / "api_key").stat().st_mode & 0o777 == 0o600
    assert directory.secrets.stat().st_mode & 0o777 == 0o700
    assert directory.root.stat().st_mode & 0o777 == 0o700


def test_the_lock_names_its_holder(directory: DataDirectory):
    held = DirectoryLock(directory)
    held.acquire()
    with pytest.raises(StackLockedError, match=f"in use by process {os.getpid()}") as refusal:
        DirectoryLock(directory).acquire()
    assert refusal.value.pid == os.getpid()
    held.release()
    again = DirectoryLock(directory)
    again.acquire()
    again.release()


HOLD = """
import os, pathlib, sys
from millrace.embedded.state import DataDirectory, DirectoryLock
DirectoryLock(DataDirectory(pathlib.Path(sys.argv[1]))).acquire()
os._exit(7)  # without letting go
"""


def test_the_lock_of_a_dead_holder_is_free(directory: DataDirectory):
    assert subprocess.run([sys.executable, "-c", HOLD, str(directory.root)], check=False).returncode == 7
    lock = DirectoryLock(directory)
    lock.acquire()
    lock.release()


def test_a_port_is_chosen_once(directory: DataDirectory):
    state = loaded(directory)
    port = state.port("nats")
    assert FIRST_PORT <= port <= LAST_PORT
    state.save()
    assert loaded(directory).port("nats") == port


def test_a_port_that_was_taken_meanwhile_is_chosen_anew(directory: DataDirectory):
    import socket

    state = loaded(directory)
    port = state.port("nats")
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
        other = state.port("nats")
    assert other != port
    assert state.port("nats") == other


def test_two_names_never_get_one_port(directory: DataDirectory):
    state = loaded(directory)
    port = state.port("first")
    assert state.port("second", prefer=port) != port


def test_the_preferred_port_is_taken_if_it_is_free(directory: DataDirectory):
    port = choose_free()
    assert loaded(directory).port("api-1", prefer=port) == port


def test_a_damaged_state_file_is_refused_with_what_to_do(directory: DataDirectory):
    (directory.root / "state.json").write_text("{")
    with pytest.raises(DataDirectoryError, match="delete the file"):
        loaded(directory)


def test_a_directory_that_cannot_be_made_is_refused_with_what_to_do(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(DataDirectoryError, match="MILLRACE_DATA_DIR"):
        DataDirectory(tmp_path / "file" / "data").create()


def test_what_an_earlier_run_left_is_ended(directory: DataDirectory, sleeper: Sleeper):
    orphan = sleeper()
    loaded(directory).remember(ProcessEvent(name="api", kind=EventKind.STARTED, pid=orphan.pid))
    assert loaded(directory).reap_orphans() == ["api"]
    assert orphan.wait(10) == -9
    assert loaded(directory).reap_orphans() == []


def test_another_process_that_got_the_same_pid_is_left_alone(directory: DataDirectory, sleeper: Sleeper):
    stranger = sleeper()
    state = loaded(directory)
    state.remember(ProcessEvent(name="api", kind=EventKind.STARTED, pid=stranger.pid))
    text = (directory.root / "state.json").read_text()
    data = json.loads(text)
    data["processes"]["api"]["started_at"] = "an earlier boot:1"
    (directory.root / "state.json").write_text(json.dumps(data))
    assert loaded(directory).reap_orphans() == []
    assert stranger.poll() is None


def test_a_process_that_ended_is_forgotten(directory: DataDirectory):
    state = loaded(directory)
    state.remember(ProcessEvent(name="api", kind=EventKind.STARTED, pid=os.getpid()))
    state.remember(ProcessEvent(name="api", kind=EventKind.STOPPED, pid=os.getpid()))
    assert loaded(directory).reap_orphans() == []


def test_an_identity_is_of_living_processes_only(gone: Callable[[int], None], sleeper: Sleeper):
    assert started_at(os.getpid()) == started_at(os.getpid())
    process = sleeper()
    assert started_at(process.pid) not in (None, started_at(os.getpid()))
    process.kill()
    gone(process.pid)  # a zombie until it is waited for: dead already


def test_processes_are_found_by_command_and_working_directory(tmp_path: Path, sleeper: Sleeper):
    process = sleeper(cwd=tmp_path)
    assert working_in(tmp_path, command="sleep") == [process.pid]
    assert working_in(tmp_path, command="postgres") == []
    assert working_in(tmp_path.parent, command="sleep") == []


def test_a_log_is_rotated_beyond_its_bound_only(tmp_path: Path):
    log = tmp_path / "x.log"
    assert not rotate_if_large(log, size_bytes_max=10)
    log.write_text("0123456789")
    assert not rotate_if_large(log, size_bytes_max=10)
    with log.open("a") as writer:  # as a child has it open
        writer.write("+")
        writer.flush()
        assert rotate_if_large(log, size_bytes_max=10)
        writer.write("next")
    assert log.read_text() == "next"
    assert (tmp_path / "x.log.1").read_text() == "0123456789+"


def test_the_tail_of_a_log_is_bounded(tmp_path: Path):
    log = tmp_path / "x.log"
    assert tail(log) == ""
    log.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert tail(log, lines_max=2) == "line 9998\nline 9999"
    log.write_bytes(b"\xff" * 100_000)
    assert len(tail(log)) <= 4096
