"""One child process: what it is (`ProcessSpec`), how it is started and how it is stopped."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from millrace.embedded.logs import open_log

_LAUNCHER = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Account:
    """The user and group a process runs as."""

    uid: int
    gid: int


async def _nothing() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """A process to keep running.

    Attributes:
        name: unique in the stack; its log is `<name>.log`.
        argv: program (absolute path) and arguments.
        ready: the readiness probe, asked again and again during a start; an OSError means "not yet".
        env: the whole environment of the process.
        prepare: runs before each start, e.g. to clear what a killed predecessor left.
        account: whom to run as; None for the supervisor's own user.
        ready_timeout_s: how long a start may take.
        stop_signal: asks the process to finish cleanly.
        stop_grace_s: how long it has for that before SIGKILL.
        death_signal: sent by the kernel when the supervisor dies (Linux). SIGKILL, since everything here is
            built to survive a crash, while a process that hangs in a clean stop would be left behind.
    """

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], Awaitable[bool]]
    env: Mapping[str, str] = field(repr=False)
    prepare: Callable[[], Awaitable[None]] = _nothing
    account: Account | None = None
    ready_timeout_s: float = 30.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL


async def spawn(spec: ProcessSpec, log_path: Path) -> Process:
    """Start the process in a session of its own, so that a terminal's Ctrl-C passes it by."""
    account = (str(spec.account.uid), str(spec.account.gid)) if spec.account else ("-", "-")
    log = open_log(log_path)
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", str(_LAUNCHER), str(os.getpid()), str(int(spec.death_signal)), *account, "--"),
            *spec.argv,
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(spec.env),
            start_new_session=True,
        )
    finally:
        os.close(log)


def send(process: Process, number: signal.Signals) -> None:
    """Signal a process that has not been seen to exit.

    Not `process.send_signal`: that reaps a child which has just died, and the event loop, which waits for the same
    child, then never learns how it ended.
    """
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


def kill_group(process: Process) -> None:
    """SIGKILL the process and what it started (its group has the same number, see `spawn`)."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def terminate(process: Process, spec: ProcessSpec, hurry: asyncio.Event) -> None:
    """Stop signal, grace, SIGKILL. Returns when the process is gone, and its group with it.

    Args:
        process: may have exited already.
        spec: which signal and how long a grace.
        hurry: cuts the grace short when it is set.
    """
    if process.returncode is not None:
        return  # its group was killed when it died; by now the number may be someone else's
    send(process, spec.stop_signal)
    send(process, signal.SIGCONT)  # one that was paused cannot stop
    exited = asyncio.ensure_future(process.wait())
    hurried = asyncio.ensure_future(hurry.wait())
    await asyncio.wait({exited, hurried}, timeout=spec.stop_grace_s, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not exited.done():
        kill_group(process)
    await exited
    kill_group(process)


def describe_exit(returncode: int | None) -> str:
    """How a process ended, for a person."""
    if returncode is None or returncode >= 0:
        return f"exited with code {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-returncode}"
