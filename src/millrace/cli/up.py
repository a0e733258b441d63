"""`millrace up`: the whole product on this machine, until Ctrl-C."""

import asyncio
import signal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from millrace.embedded import EmbeddedStack, ProcessEvent

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DurabilityChoice(StrEnum):
    """When a write counts as done."""

    FSYNC = "fsync"
    INTERVAL = "interval"


def up(
    *,
    data_dir: Annotated[Path, typer.Option(envvar="MILLRACE_DATA_DIR", help="Everything the stack keeps.")] = Path(
        ".millrace"
    ),
    durability: Annotated[
        DurabilityChoice,
        typer.Option(
            envvar="MILLRACE_DURABILITY",
            help="fsync: what is acknowledged survives a power failure. interval: faster, it survives the "
            "crash of any process, but a power failure may take the last moments.",
        ),
    ] = DurabilityChoice.FSYNC,
    nats_url: Annotated[
        str | None,
        typer.Option(envvar="MILLRACE_NATS_URL", help="A NATS to use instead of the embedded one."),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(envvar="MILLRACE_DATABASE_URL", help="Use this PostgreSQL instead of the embedded one."),
    ] = None,
    api_host: Annotated[str, typer.Option(envvar="MILLRACE_API_HOST", help="Where the api listens.")] = "127.0.0.1",
    api_port: Annotated[
        int | None,
        typer.Option(envvar="MILLRACE_API_PORT", min=1, max=65535, help="Its port: 8080, or any free one."),
    ] = None,
    orchestrators: Annotated[int, typer.Option(min=0, max=16, help="How many orchestrators.")] = 1,
    agent_runners: Annotated[
        int, typer.Option("--agent-runners", "--runners", min=0, max=16, help="How many agent-runners.")
    ] = 1,
    servers_only: Annotated[
        bool, typer.Option("--servers-only", help="NATS and PostgreSQL only: start the services yourself.")
    ] = False,
    postgres_tcp: Annotated[
        bool, typer.Option(help="Let PostgreSQL listen on loopback too, e.g. for Grafana.")
    ] = False,
) -> None:
    """Start NATS, PostgreSQL and the four services on this machine. Ctrl-C stops them, twice kills.

    The bootstrap API key is MILLRACE_API_KEY if that is set, else generated once and kept.
    """
    import os

    from rich.console import Console

    from millrace.embedded import EmbeddedError, EmbeddedStack

    api_key = os.environ.get("MILLRACE_API_KEY") or None  # no option: every user can read command lines
    console = Console(highlight=False, soft_wrap=True)
    one_each = {"api": 1, "orchestrator": orchestrators, "agent-runner": agent_runners, "telemetry": 1}
    stack = EmbeddedStack(
        data_dir,
        durability=durability.value,
        services={} if servers_only else one_each,
        nats_url=nats_url,
        database_url=database_url,
        api_host=api_host,
        api_port=api_port,
        api_key=api_key,
        postgres_tcp=postgres_tcp,
        on_event=lambda event: say(console, event),
    )
    try:
        asyncio.run(run_until_stopped(stack, console, show_key=api_key is None))
    except EmbeddedError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"millrace: {error}", markup=False, style="red")
        raise typer.Exit(1) from None


async def run_until_stopped(stack: "EmbeddedStack", console: "Console", *, show_key: bool) -> None:
    """Start the stack, show it, and stop it at the first signal; a second one kills it.

    Args:
        stack: not started yet.
        console: where to say what happens.
        show_key: print the API key (not one that came from the environment).
    """
    asked = asyncio.Event()

    def stop() -> None:
        if asked.is_set():
            stack.supervisor.hurry()
        asked.set()

    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    started = asyncio.create_task(stack.start())
    waiting = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({started, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            started.result()
            show(stack, console, show_key=show_key)
            _note_changes(stack, console)
            await waiting
        console.print("Stopping (Ctrl-C again to kill)...")
    finally:
        waiting.cancel()
        started.cancel()
        await asyncio.gather(started, waiting, return_exceptions=True)
        await stack.stop()


def show(stack: "EmbeddedStack", console: "Console", *, show_key: bool) -> None:
    """The table of what runs where, and what a user needs next, on lines that can be copied."""
    from rich.table import Table

    addresses = {instance.name: instance.url for instance in stack.instances}
    table = Table("process", "pid", "address", box=None, header_style="dim", pad_edge=False)
    for name in stack.supervisor.names:
        table.add_row(name, str(stack.supervisor.pid(name)), addresses.get(name, "embedded"))
    lines = {}
    if "api" in addresses:
        lines["API docs"] = f"{stack.api_url}/docs"
    if addresses:
        lines["API key"] = stack.api_key if show_key else "from MILLRACE_API_KEY"
    else:
        lines |= {"MILLRACE_NATS_URL": stack.nats_url, "MILLRACE_DATABASE_URL": stack.database_url}
    lines |= {"logs": str(stack.supervisor.log_path("<process>")), "durability": stack.durability}
    console.print("\nMillrace is up", style="bold green")
    console.print(table)
    for label, value in lines.items():
        console.print(f"{label}: {value}", markup=False)


def say(console: "Console", event: "ProcessEvent") -> None:
    """One line for each thing that happens to a process."""
    from millrace.embedded import EventKind

    style = {
        EventKind.READY: "green",
        EventKind.DIED: "bold red",
        EventKind.FAILED: "red",
        EventKind.RESTARTING: "yellow",
    }
    pid = f" (pid {event.pid})" if event.pid else ""
    detail = f" {event.detail}" if event.detail else ""
    console.print(f"{event.name} {event.kind}{pid}{detail}", style=style.get(event.kind, "dim"), markup=False)


def _note_changes(stack: "EmbeddedStack", console: "Console") -> None:
    """Say what `up` did to the machine beyond its own directory."""
    if stack.reaped:
        console.print(f"Ended processes that an earlier run left behind: {', '.join(stack.reaped)}", style="yellow")
    for directory in stack.opened:
        console.print(
            f"{directory} may now be passed through (not listed) by other users: PostgreSQL needs it, "
            "since it refuses to run as root.",
            style="yellow",
        )
