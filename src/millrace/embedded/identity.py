"""Telling one process from another that was given the same pid later.

A pid alone is not an identity: after a reboot, or in a small container, it soon belongs to someone
else. A pid together with the instant its process started is one.
"""

import os
import platform
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_ON_LINUX = platform.system() == "Linux"
_POLL_S = 0.01  # only while waiting for something that was just killed
_STATE, _START_TICKS = 0, 19  # fields of /proc/<pid>/stat, counted from after the command's name


def started_at(pid: int) -> str | None:
    """An opaque mark of when a live process started, or None if there is no such live process.

    The mark differs between two processes that had the same pid, across reboots too. A zombie counts as dead.
    """
    if _ON_LINUX:
        fields = _stat_fields(pid)
        if fields is None or fields[_STATE] in ("Z", "X"):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{fields[_START_TICKS]}"
    shown = subprocess.run(  # noqa: S603 - fixed arguments
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() or None


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()  # the name in parentheses may itself hold spaces and parentheses


def working_in(directory: Path, *, command: str) -> list[int]:
    """Pids of the live processes of a command whose working directory is this one (Linux; elsewhere none).

    Postgres makes its data directory the working directory of each of its processes, and each of them is a
    session of its own, so this is how the orphans of a killed postmaster are found.
    """
    if not _ON_LINUX:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # gone meanwhile, or another user's
                there = (entry / "cwd").readlink() == directory
                if there and (entry / "comm").read_text().strip() == command and started_at(int(entry.name)):
                    found.append(int(entry.name))
    return found


def kill_and_wait(pids: Iterable[int], *, timeout_s: float) -> list[int]:
    """SIGKILL the process groups these processes lead, and the processes; wait until they are gone.

    Returns:
        Those that were still there after `timeout_s` seconds.
    """
    marks = {pid: mark for pid in pids if (mark := started_at(pid))}
    for pid in marks:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + timeout_s
    while (alive := [pid for pid, mark in marks.items() if started_at(pid) == mark]) and (time.monotonic() < deadline):
        time.sleep(_POLL_S)
    return alive
