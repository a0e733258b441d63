"""What the supervisor says about its processes, for the console, the state file and the tests."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """What happened to a process."""

    STARTED = "started"  # it has a pid
    READY = "ready"  # its readiness probe passed
    DIED = "died"  # it exited and nobody asked it to
    RESTARTING = "restarting"  # it will be started again after a delay
    FAILED = "failed"  # a restart did not get as far as ready; another follows
    STOPPED = "stopped"  # it exited because it was asked to


@dataclass(frozen=True, kw_only=True)
class ProcessEvent:
    """One thing that happened to one process.

    Attributes:
        name: the process, as in the stack's table (`nats`, `orchestrator-2`).
        kind: what happened.
        pid: the process id, where there is one.
        detail: one line for a person: how it exited, how long the restart waits, what failed.
    """

    name: str
    kind: EventKind
    pid: int | None = None
    detail: str = ""


Listener = Callable[[ProcessEvent], None]
