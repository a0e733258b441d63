"""The files that scans look at: those of a directory of this machine, or those that the input itself holds.

A directory is read only below the roots that the operator permits (MILLRACE_SCAN_ROOTS): a definition's author may be
somebody else. Symbolic links are not followed, and what is no text is passed over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from millrace_agent_runner.errors import TerminalFailure

FILES_MAX = 5_000
FILE_BYTES_MAX = 512 * 1024
TOTAL_BYTES_MAX = 32 * 1024 * 1024
PATH_CHARS_MAX = 1_000
SKIPPED_DIRECTORIES = frozenset(
    {".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".tox", ".mypy_cache", "dist", "build"}
)


@dataclass(frozen=True, slots=True)
class Project:
    """Text files by their path, which is relative and has forward slashes; `skipped` counts those that were not read.

    `is_complete` is false when there were more than the limits allow.
    """

    files: dict[str, str]
    skipped: int = 0
    is_complete: bool = True


class _Permission:
    """Where directories may be read: set once, when the runner starts."""

    roots: tuple[Path, ...] = ()


def permit(roots: tuple[str, ...]) -> None:
    """Permit scans to read the directories below `roots`, and no others."""
    _Permission.roots = tuple(Path(root).resolve() for root in roots)


def read_project(directory: str | None, files: dict[str, str] | None) -> Project:
    """Return what is to be scanned: a directory if one is named, else the files that are given by their path.

    Raises:
        TerminalFailure: neither is given, the directory is not permitted or not there, or `files` holds something else
            than texts.
    """
    if directory:
        return _read(_permitted(str(directory)))
    if files is None:
        raise TerminalFailure("a scan needs a `directory`, or `files`", category="input_invalid")
    return _given(files)


def is_inside(path: str) -> bool:
    """Tell whether a path is relative, and stays below where it begins."""
    pure = PurePosixPath(path)
    return bool(path) and len(path) <= PATH_CHARS_MAX and not pure.is_absolute() and ".." not in pure.parts


def _given(files: dict[str, str]) -> Project:
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise TerminalFailure("`files` is an object of texts by their path", category="input_invalid")
    if len(files) > FILES_MAX or sum(map(len, files.values())) > TOTAL_BYTES_MAX:
        message = f"`files` holds more than can be scanned: {FILES_MAX} files, {TOTAL_BYTES_MAX} characters"
        raise TerminalFailure(message, category="input_invalid")
    return Project(dict(sorted(files.items())))


def _permitted(directory: str) -> Path:
    path = Path(directory).resolve()
    if not any(path.is_relative_to(root) for root in _Permission.roots):
        message = (
            f'the directory "{directory[:PATH_CHARS_MAX]}" may not be read: add it, or one above it, to '
            "MILLRACE_SCAN_ROOTS in the environment of the agent runner, or pass `files`"
        )
        raise TerminalFailure(message, category="input_invalid", code="directory_not_permitted")
    if not path.is_dir():
        message = f'there is no directory "{directory[:PATH_CHARS_MAX]}" on the machine of the agent runner'
        raise TerminalFailure(message, category="input_invalid", code="directory_unknown")
    return path


def _read(root: Path) -> Project:
    found: dict[str, str] = {}
    skipped = total_bytes = 0
    for path in _paths(root):
        if len(found) >= FILES_MAX or total_bytes >= TOTAL_BYTES_MAX:
            return Project(found, skipped, is_complete=False)
        text = _text(path)
        if text is None:
            skipped += 1
            continue
        found[path.relative_to(root).as_posix()] = text
        total_bytes += len(text)
    return Project(found, skipped)


def _paths(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):  # does not follow links
        folders[:] = sorted(name for name in folders if name not in SKIPPED_DIRECTORIES)
        for name in sorted(names):
            yield Path(folder, name)


def _text(path: Path) -> str | None:
    """The text of a plain file of bearable size, or None."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):  # a pipe would be waited for, a device has no end
            return None
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX or b"\0" in content:
        return None
    return content.decode("utf-8", errors="replace")
