"""`millrace up` as its user meets it: a process that prints, reacts to signals and exits."""

import os
import platform
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import millrace
import millrace_shared
from millrace.embedded.identity import started_at, working_in

UP = [sys.executable, "-m", "millrace.cli.main", "up", "--servers-only"]


class Running:
    """A `millrace up`, and what it printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""

    def until(self, text: str) -> str:
        """Reads on until a line holds the text; fails when the output ends without it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if text in line:
                return line
        raise AssertionError(f"{text!r} never came:\n{self.output}")

    def rest(self) -> str:
        out, _ = self.process.communicate(timeout=90)
        self.output += out
        return out


@contextmanager
def running(command: list[str], directory: Path, **options: object) -> Iterator[Running]:
    environment = {**os.environ, "MILLRACE_DATA_DIR": str(directory), "PYTHONUNBUFFERED": "1"}
    environment |= options.pop("env", {})  # type: ignore[arg-type]
    process = subprocess.Popen(  # type: ignore[call-overload]
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    with process:
        try:
            yield Running(process)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_stops_everything_cleanly(tmp_path: Path, number: signal.Signals):
    with running(UP, tmp_path) as up:
        up.until("durability: fsync")
        assert "MILLRACE_NATS_URL: nats://millrace:" in up.output
        assert "MILLRACE_DATABASE_URL: postgresql://millrace:" in up.output
        up.process.send_signal(number)
        assert "killed" not in up.rest()
        assert up.process.returncode == 0
    assert "postgres stopped" in up.output
    assert "nats stopped" in up.output


def test_a_second_signal_waits_for_nobody(tmp_path: Path):
    """Postgres gives an open session 30 s of a fast shutdown only if it hangs; so hang one of its processes."""
    with running(UP, tmp_path) as up:
        up.until("durability: fsync")
        checkpointer = _checkpointer(tmp_path / "postgres")
        os.kill(checkpointer, signal.SIGSTOP)
        up.process.send_signal(signal.SIGINT)
        up.until("nats stopped")
        up.process.send_signal(signal.SIGINT)
        up.until("postgres stopped")
        up.rest()
        assert up.process.returncode == 0
        assert re.search(r"postgres stopped .* killed by SIGKILL", up.output)
        os.kill(checkpointer, signal.SIGKILL)


def _checkpointer(cluster: Path) -> int:
    for pid in working_in(cluster, command="postgres"):
        if "checkpointer" in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    raise AssertionError("no checkpointer")


def test_a_signal_during_the_start_leaves_nothing(tmp_path: Path, gone_pid: Callable[[str], None]):
    with running(UP, tmp_path) as up:
        line = up.until("nats started")
        up.process.send_signal(signal.SIGINT)
        up.rest()
        assert up.process.returncode == 0
    gone_pid(line)


@pytest.fixture
def gone_pid() -> Callable[[str], None]:
    def check(line: str) -> None:
        assert started_at(int(re.search(r"pid (\d+)", line)[1])) is None  # type: ignore[index]

    return check


def test_it_says_when_something_dies_and_comes_back(tmp_path: Path):
    with running(UP, tmp_path) as up:
        line = up.until("nats ready")
        up.until("durability: fsync")
        os.kill(int(re.search(r"pid (\d+)", line)[1]), signal.SIGKILL)  # type: ignore[index]
        assert "killed by SIGKILL" in up.until("nats died")
        up.until("nats restarting")
        up.until("nats ready")
        up.process.send_signal(signal.SIGTERM)
        up.rest()


def test_a_directory_in_use_is_one_clear_line(tmp_path: Path):
    with running(UP, tmp_path) as first:
        first.until("durability: fsync")
        with running(UP, tmp_path) as second:
            said = second.rest()
            assert second.process.returncode == 1
        assert said.strip() == (
            f"millrace: {tmp_path} is in use by process {first.process.pid}. Stop that one first, or choose another "
            "MILLRACE_DATA_DIR."
        )
        first.process.send_signal(signal.SIGTERM)
        first.rest()


def _python_of_everyone() -> str | None:
    """A Python of our version that other users can run too (a virtual environment's may lie in root's home)."""
    return shutil.which(f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")


@pytest.mark.skipif(
    platform.system() != "Linux" or os.geteuid() != 0 or _python_of_everyone() is None,
    reason="only root can try it as somebody else, with a Python that somebody else can run",
)
def test_it_works_for_an_ordinary_user():
    """The whole session otherwise runs as whoever started it; this is the other case of root's."""
    user = pwd.getpwnam("nobody")
    python = _python_of_everyone()
    assert python is not None
    home = Path(tempfile.mkdtemp(prefix="millrace-home-"))
    os.chown(home, user.pw_uid, user.pw_gid)
    packages = [Path(module.__path__[0]).parent for module in (millrace, millrace_shared)]
    packages.append(Path(pytest.__file__).parent.parent)  # site-packages
    environment = {"HOME": str(home), "PYTHONPATH": ":".join(map(str, packages))}
    account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": home}
    try:
        data = home / ".millrace"
        with running([python, *UP[1:]], data, env=environment, **account) as up:
            up.until("durability: fsync")
            up.process.send_signal(signal.SIGTERM)
            assert "passed through" not in up.rest()
            assert up.process.returncode == 0
        assert (data / "postgres").stat().st_uid == user.pw_uid
        assert data.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(home)
