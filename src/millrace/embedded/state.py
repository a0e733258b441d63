"""The data directory: where everything of one stack lives, and what it remembers from one start to the next.

<data>/lock          held (flock) by the process that runs the stack; holds its pid
<data>/state.json    ports, the socket directory, the api's address, the identity of each running process
<data>/secrets/      generated at the first start, 0700, files 0600
<data>/nats/         JetStream's store and the generated configuration
<data>/postgres/     the database cluster
<data>/run/          the Postgres socket, 0700
<data>/blobs/        claim-checked payloads
<data>/logs/         one log per process
"""

import fcntl
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millrace.embedded.errors import DataDirectoryError, StackLockedError
from millrace.embedded.events import EventKind, ProcessEvent
from millrace.embedded.identity import kill_and_wait, started_at
from millrace.embedded.ports import choose_free, is_free

_SECRET_BYTES = 24
_REAP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class DataDirectory:
    """The paths of one stack. Everything in it belongs to the user who runs the stack."""

    root: Path

    def create(self) -> None:
        """Make the directories, private to the user.

        Raises:
            DataDirectoryError: it cannot be written to.
        """
        try:
            if not self.root.exists():
                self.root.mkdir(parents=True, mode=0o700)
            for path, mode in (
                (self.secrets, 0o700),
                (self.logs, 0o700),
                (self.nats, 0o700),
                (self.blobs, 0o700),
            ):
                path.mkdir(mode=mode, exist_ok=True)
        except OSError as error:
            raise DataDirectoryError(
                f"cannot use {self.root} as the data directory: {error.strerror} ({error.filename}). "
                "Choose another MILLRACE_DATA_DIR, or make it writable for you."
            ) from error

    @property
    def secrets(self) -> Path:
        """Generated secrets, one file each."""
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        """One log file per process."""
        return self.root / "logs"

    @property
    def nats(self) -> Path:
        """The JetStream store and its configuration."""
        return self.root / "nats"

    @property
    def postgres(self) -> Path:
        """The database cluster."""
        return self.root / "postgres"

    @property
    def run(self) -> Path:
        """The Postgres socket, if its path is short enough."""
        return self.root / "run"

    @property
    def blobs(self) -> Path:
        """Claim-checked payloads."""
        return self.root / "blobs"

    def secret(self, name: str, generate: Callable[[], str] | None = None) -> str:
        """The secret of this name, generated once and kept in a file that only the owner can read.

        Args:
            name: file name under `secrets/`.
            generate: makes the value at the first use; 24 random bytes in hexadecimal unless given.
        """
        path = self.secrets / name
        with suppress(FileNotFoundError):
            return path.read_text().strip()
        value = generate() if generate else secrets.token_hex(_SECRET_BYTES)
        write_private(path, value)
        return value


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically and durably; only its owner can read it."""
    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)


class DirectoryLock:
    """The single-instance lock of a data directory. The kernel releases it when its holder dies."""

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock, without waiting.

        Raises:
            StackLockedError: another process has it; names its pid.
        """
        file = os.open(self._directory.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 32, 0).decode(errors="replace").strip()
            os.close(file)
            raise StackLockedError(self._directory.root, int(holder) if holder.isdecimal() else None) from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        """Give the lock back; the file stays, since removing it would let two holders in."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class StackState:
    """What a stack remembers in `state.json`. Only the holder of the directory's lock may use it."""

    def __init__(self, directory: DataDirectory) -> None:
        self._path = directory.root / "state.json"
        self._ports: dict[str, int] = {}
        self._processes: dict[str, dict[str, Any]] = {}
        self.socket_dir: Path | None = None
        self.api_url: str | None = None  # for clients on this machine, see millrace.client.address

    def load(self) -> None:
        """Read the file, if there is one.

        Raises:
            DataDirectoryError: it is not what we wrote.
        """
        try:
            data = json.loads(self._path.read_text())
            self._ports = {str(name): int(port) for name, port in data["ports"].items()}
            self._processes = dict(data["processes"])
            self.socket_dir = Path(data["socket_dir"]) if data["socket_dir"] else None
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataDirectoryError(
                f"{self._path} is damaged ({error}). Make sure that no process of this stack runs any more, "
                "then delete the file: it holds ports and pids only."
            ) from error

    def save(self) -> None:
        """Write the file."""
        data = {
            "ports": self._ports,
            "socket_dir": str(self.socket_dir) if self.socket_dir else None,
            "api_url": self.api_url,
            "processes": self._processes,
        }
        write_private(self._path, json.dumps(data, indent=2))

    def port(self, name: str, *, prefer: int | None = None) -> int:
        """The port of this name: the one it had before if it is free, else `prefer`, else any other.

        Saves the choice with the next `save`.
        """
        others = {port for other, port in self._ports.items() if other != name}
        for candidate in (self._ports.get(name), prefer):
            if candidate and candidate not in others and is_free(candidate):
                self._ports[name] = candidate
                return candidate
        self._ports[name] = choose_free(others)
        return self._ports[name]

    def known_port(self, name: str) -> int | None:
        """The port that this name had last, if it ever had one."""
        return self._ports.get(name)

    def remember(self, event: ProcessEvent) -> None:
        """A supervisor listener: keep the identity of every process that runs."""
        if event.kind is EventKind.STARTED and event.pid is not None:
            self._processes[event.name] = {"pid": event.pid, "started_at": started_at(event.pid)}
        elif event.kind in (EventKind.DIED, EventKind.STOPPED):
            self._processes.pop(event.name, None)
        else:
            return
        self.save()

    def reap_orphans(self) -> list[str]:
        """Kill what an earlier supervisor left running when it was killed itself.

        Returns:
            The names of the processes that were still alive.

        Raises:
            DataDirectoryError: one does not die (it waits for a disk, say).
        """
        orphans = {
            name: int(seen["pid"])
            for name, seen in self._processes.items()
            if seen["started_at"] is not None and started_at(int(seen["pid"])) == seen["started_at"]
        }
        if stubborn := kill_and_wait(orphans.values(), timeout_s=_REAP_TIMEOUT_S):
            raise DataDirectoryError(f"processes {stubborn} of an earlier run do not die; end them first.")
        self._processes.clear()
        self.save()
        return list(orphans)
