"""How a service process runs: real child processes, real signals."""

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, logging, sys
from contextlib import asynccontextmanager
from millrace_shared.errors import BusUnavailable
from millrace_shared.service import run
from millrace_shared.settings import Settings

@asynccontextmanager
async def service():
    {body}

settings = Settings.load()
sys.exit(run("tester", settings, service()))
"""
SERVES = """
    try:
        yield
    finally:
        await asyncio.sleep(0)
        logging.getLogger("own").info("drained")
"""
DEADLINE_S = 60
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a service whose context manager has the given body."""
    processes: list[subprocess.Popen[str]] = []

    def begin(body: str = SERVES, **environment: str) -> subprocess.Popen[str]:
        path = tmp_path / "program.py"
        path.write_text(PROGRAM.replace("    {body}", textwrap.indent(textwrap.dedent(body), "    ")))
        process = subprocess.Popen(
            [sys.executable, path], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Read what the process says up to the line that holds `text`."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            break
    else:
        pytest.fail(f"it never said {text!r}: {lines}")
    return "".join(lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_it_and_it_ends_well(start: Start, number: signal.Signals):
    process = start()
    read_until(process, "tester is ready")
    process.send_signal(number)
    _, rest = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert [line.split(": ", 1)[1] for line in rest.splitlines()] == ["tester is stopping", "drained"]


def test_a_signal_while_it_starts_is_not_lost(start: Start):
    process = start(
        """
        logging.getLogger("own").info("starting")
        await asyncio.to_thread(sys.stdin.readline)
        yield
        """
    )
    read_until(process, "starting")
    process.send_signal(signal.SIGTERM)
    process.communicate("go on\n", timeout=DEADLINE_S)
    assert process.returncode == 0


def test_an_error_at_start_that_was_foreseen_is_one_line(start: Start):
    process = start("raise BusUnavailable('no NATS server answered'); yield")
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    (line,) = said.splitlines()
    assert line.endswith("ERROR   tester: tester cannot start: no NATS server answered")


def test_a_bug_at_start_is_shown_with_its_stack(start: Start):
    process = start("raise ZeroDivisionError; yield")
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "Traceback" in said


def test_log_lines_for_machines_are_json(start: Start):
    process = start(
        """
        try:
            1 / 0
        except ZeroDivisionError:
            logging.getLogger("own").exception("it %s", 'says "no"\\n and more')
        logging.getLogger("httpx").info("noise")
        raise BusUnavailable("away")
        yield
        """,
        MILLRACE_LOG_FORMAT="json",
    )
    _, said = process.communicate(timeout=DEADLINE_S)
    bug, end = (json.loads(line) for line in said.splitlines())
    assert set(end) == {"time", "level", "service", "logger", "message"}
    assert (end["level"], end["service"], end["message"]) == ("ERROR", "tester", "tester cannot start: away")
    assert (bug["logger"], bug["message"]) == ("own", 'it says "no"\n and more')
    assert "ZeroDivisionError" in bug["exception"]
    assert end["time"].endswith("Z")


def test_the_least_level_is_a_setting(start: Start):
    process = start("raise BusUnavailable('away'); yield", MILLRACE_LOG_LEVEL="ERROR")
    assert "cannot start" in process.communicate(timeout=DEADLINE_S)[1]
    process = start(
        """
        logging.getLogger("own").info("not shown")
        logging.getLogger("own").warning("shown")
        raise BusUnavailable("away")
        yield
        """,
        MILLRACE_LOG_LEVEL="WARNING",
    )
    said = process.communicate(timeout=DEADLINE_S)[1]
    assert "not shown" not in said
    assert "shown" in said
