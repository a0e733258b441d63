"""One command per service, for those who run each as a process of their own."""

import importlib
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated

import typer


class TelemetryTask(StrEnum):
    """What the telemetry service can be asked to do."""

    SERVE = "serve"
    REBUILD = "rebuild"
    COUNTS = "counts"


def api() -> None:
    """Run the api service: REST, WebSocket, definitions."""
    _run("millrace_api")


def orchestrator() -> None:
    """Run the orchestrator service: decides what each execution does next."""
    _run("millrace_orchestrator")


def agent_runner() -> None:
    """Run the agent-runner service: runs the steps."""
    _run("millrace_agent_runner")


def telemetry(
    task: Annotated[
        TelemetryTask,
        typer.Argument(help="serve: run it. rebuild: build the tables anew from the log. counts: how much is in them."),
    ] = TelemetryTask.SERVE,
) -> None:
    """Run the telemetry service, which projects the log into Postgres, or rebuild what it projected."""
    _run("millrace_telemetry", [task.value])


COMMANDS: dict[str, Callable[..., None]] = {
    "api": api,
    "orchestrator": orchestrator,
    "agent-runner": agent_runner,
    "telemetry": telemetry,
}


def _run(package: str, arguments: Sequence[str] | None = None) -> None:
    """Settings come from the environment; servers that it does not name are those of the data directory's stack."""
    _join_stack()
    main = importlib.import_module(f"{package}.entrypoint").main
    raise typer.Exit(main() if arguments is None else main(arguments))


def _join_stack() -> None:
    """Complete this process's environment, which is about to be the service's, and say so."""
    import os
    from pathlib import Path

    from millrace.embedded.joining import servers_of

    data_dir = Path(os.environ.get("MILLRACE_DATA_DIR") or ".millrace")
    missing = {name: url for name, url in servers_of(data_dir).items() if not os.environ.get(name)}
    if missing:
        typer.echo(f"{' and '.join(missing)}: of the `millrace up` in {data_dir}", err=True)
        os.environ.update(missing)
