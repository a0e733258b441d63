"""The process: settings from the environment, then run until SIGTERM."""

from __future__ import annotations

import sys

from millrace_orchestrator.bootstrap import orchestrator
from millrace_orchestrator.settings import OrchestratorSettings
from millrace_shared.errors import SettingsInvalid
from millrace_shared.service import run

NAME = "orchestrator"


def main() -> int:
    """Run the orchestrator. Returns the exit status of the process."""
    try:
        settings = OrchestratorSettings.load()
    except SettingsInvalid as error:
        print(f"{NAME} cannot start: {error}", file=sys.stderr)  # noqa: T201  logging needs settings
        return 1
    return run(NAME, settings, orchestrator(settings))
