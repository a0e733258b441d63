"""The process: settings from the environment, then run until SIGTERM."""

from __future__ import annotations

import sys

from millrace_agent_runner.bootstrap import agent_runner
from millrace_agent_runner.settings import RunnerSettings
from millrace_shared.errors import SettingsInvalid
from millrace_shared.service import run

NAME = "agent-runner"


def main() -> int:
    """Run the agent runner. Returns the exit status of the process."""
    try:
        settings = RunnerSettings.load()
    except SettingsInvalid as error:
        print(f"{NAME} cannot start: {error}", file=sys.stderr)  # noqa: T201  logging needs settings
        return 1
    return run(NAME, settings, agent_runner(settings))
