"""One log file per process, bounded.

A child writes straight to its file (opened for append), so its logging costs the supervisor nothing, cannot
block on it, and survives it. The price: rotation copies and truncates, so lines written in the instant
between the two are lost, and a file may exceed its bound by what is written within one check interval.
"""

import os
import shutil
from pathlib import Path

LOG_SIZE_BYTES_MAX = 10 * 1024 * 1024
LOG_CHECK_INTERVAL_S = 10.0
_TAIL_BYTES_MAX = 4096


def open_log(path: Path) -> int:
    """Open a log for appending, readable by its owner only; returns a file descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def rotate_if_large(path: Path, *, size_bytes_max: int = LOG_SIZE_BYTES_MAX) -> bool:
    """Move the content of a log that outgrew its bound to `<name>.1`, replacing the one before."""
    try:
        if path.stat().st_size <= size_bytes_max:
            return False
    except FileNotFoundError:
        return False
    shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    path.with_name(f"{path.name}.1").chmod(0o600)
    os.truncate(path, 0)
    return True


def tail(path: Path, *, lines_max: int = 12) -> str:
    """The last lines of a log, for the message that says why a process did not start."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL_BYTES_MAX))
            text = log.read(_TAIL_BYTES_MAX).decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines_max:])
