"""The process: settings from the environment, the service, the exit status."""

from __future__ import annotations

import sys

from millrace_api.bootstrap import serve
from millrace_api.settings import ApiSettings
from millrace_shared.errors import SettingsInvalid
from millrace_shared.service import run


def main() -> int:
    """Run the api until SIGTERM or SIGINT. Returns the exit status."""
    try:
        settings = ApiSettings.load()
    except SettingsInvalid as error:
        print(f"api cannot start: {error}", file=sys.stderr)  # noqa: T201  logging is configured by the settings
        return 2
    return run("api", settings, serve(settings))
