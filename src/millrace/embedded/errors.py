"""What can go wrong with the embedded stack.

MillraceError
└── EmbeddedError
    ├── StackLockedError       terminal: another process runs this data directory
    ├── BinaryUnavailableError terminal: a server's program is missing or does not run here
    ├── DataDirectoryError     terminal: the data directory cannot be used
    ├── PortTakenError         terminal: a port that was asked for belongs to someone else
    ├── UnknownProcessError    terminal: there is no process of that name
    └── ProcessStartError      retryable: a process died or did not become ready. Terminal at the first
                               start; on a restart the supervisor tries again after its backoff
"""

from pathlib import Path

from millrace_shared.errors import MillraceError, RetryableError, TerminalError


class EmbeddedError(MillraceError):
    """The embedded stack could not do what was asked."""


class StackLockedError(EmbeddedError, TerminalError):
    """Another process holds the data directory."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        self.pid = pid
        holder = f"process {pid}" if pid else "another process"
        super().__init__(f"{data_dir} is in use by {holder}. Stop that one first, or choose another MILLRACE_DATA_DIR.")


class BinaryUnavailableError(EmbeddedError, TerminalError):
    """A server's program is missing, or does not run on this machine."""


class DataDirectoryError(EmbeddedError, TerminalError):
    """The data directory cannot be used."""


class PortTakenError(EmbeddedError, TerminalError):
    """A port that was asked for by number belongs to someone else."""


class UnknownProcessError(EmbeddedError, TerminalError):
    """There is no supervised process of that name."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f'There is no process "{name}"; the stack runs: {", ".join(known) or "none"}.')


class ProcessStartError(EmbeddedError, RetryableError):
    """A process exited, or did not become ready in time. The message ends with the last lines of its log."""
