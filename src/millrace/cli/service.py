"""One command per service, for those who run each as a process of their own."""

import importlib
from collections.abc import Callable

import typer


def api() -> None:
    """Run the api service: REST, WebSocket, definitions."""
    _run("millrace_api")


def orchestrator() -> None:
    """Run the orchestrator service: decides what each execution does next."""
    _run("millrace_orchestrator")


def agent_runner() -> None:
    """Run the agent-runner service: runs the steps."""
    _run("millrace_agent_runner")


def telemetry() -> None:
    """Run the telemetry service: projects the log, serves metrics, raises alerts."""
    _run("millrace_telemetry")


COMMANDS: dict[str, Callable[[], None]] = {
    "api": api,
    "orchestrator": orchestrator,
    "agent-runner": agent_runner,
    "telemetry": telemetry,
}


def _run(package: str) -> None:
    """Settings come from the environment, as with `python -m`."""
    raise typer.Exit(importlib.import_module(f"{package}.entrypoint").main())
