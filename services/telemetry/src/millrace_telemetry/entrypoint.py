"""The command line of the service.

python -m millrace_telemetry            run the service
python -m millrace_telemetry rebuild    build the tables anew from the log
python -m millrace_telemetry counts     print how many rows there are, by table and by status, as JSON
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import uvloop

from millrace_shared.errors import MillraceError
from millrace_shared.service import configure_logging, run
from millrace_telemetry.adapters.store import Store
from millrace_telemetry.bootstrap import serve
from millrace_telemetry.rebuild import rebuild
from millrace_telemetry.settings import TelemetrySettings

NAME = "telemetry"
log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what `arguments` (those of the process by default) ask for. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="millrace_telemetry", description="Projects the log into Postgres.")
    parser.add_argument(
        "command",
        nargs="?",
        choices=("serve", "rebuild", "counts"),
        default="serve",
        help="serve: run the service. rebuild: empty the tables and replay the log. counts: print row counts.",
    )
    command = parser.parse_args(arguments).command
    try:
        settings = TelemetrySettings.load()
    except MillraceError as error:
        sys.stderr.write(f"{NAME} cannot start: {error}\n")
        return 1
    if command == "serve":
        return run(NAME, settings, serve(settings))
    configure_logging(NAME, settings)
    try:
        report = uvloop.run(rebuild(settings) if command == "rebuild" else counts(settings))
    except MillraceError as error:
        log.error("%s failed: %s", command, error)  # noqa: TRY400  the message is made for people
        return 1
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


async def counts(settings: TelemetrySettings) -> dict[str, Any]:
    """Return how many rows are projected: `rows` by table, `executions` and `steps` by status.

    Raises:
        DatabaseUnavailable: no server answered in time.
    """
    store = await Store.open(settings.database_url.get_secret_value(), "counts")
    try:
        return await store.counts()
    finally:
        await store.close()
