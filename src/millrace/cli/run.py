"""`millrace run`: start an execution, and watch it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millrace.cli.server import AsJson, Key, Url, open_client, print_json, tell, told

if TYPE_CHECKING:
    from rich.console import Console

    from millrace.client import Client
    from millrace.client.shapes import Execution, Workflow

INPUT_BYTES_MAX = 8 * 1024 * 1024
INTERRUPTED = 130  # what shells report for Ctrl-C


@told
def run(
    workflow: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME", help="A definition, which is saved first, or a saved workflow's name or id."
        ),
    ],
    values: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="NAME=VALUE", help="One input. Repeatable.")
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input-file", help="Inputs as a JSON object; - is standard input.")
    ] = None,
    execution_name: Annotated[
        str | None, typer.Option("--name", help="The same name again is the same execution, not another one.")
    ] = None,
    breakpoints: Annotated[
        list[str] | None,
        typer.Option("--breakpoint", help="A step to be held before it begins; * is all of them. Repeatable."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show each step until the end; exit with 0 only if it completes.")
    ] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Start an execution and print its id, or watch it to its end."""
    from millrace.cli.files import read
    from millrace.cli.values import parse_input

    with open_client(url, key) as client:
        saved = _save_or_find(client, workflow)
        document = None if input_file is None else read(input_file, INPUT_BYTES_MAX).decode(errors="replace")
        given = parse_input(values or [], document, saved.get("definition") or {})
        accepted = client.start(
            saved["id"],
            given,
            version=saved["version"],
            execution_name=execution_name,
            breakpoints=breakpoints or (),
        )
        if not watch:
            tell(accepted, accepted["execution_id"], as_json=as_json)
            return
        execution = _watched(client, accepted["execution_id"], show=not as_json)
    if as_json:
        print_json(execution)
    if execution["status"] != "completed":
        raise typer.Exit(1)


def _save_or_find(client: "Client", workflow: str) -> "Workflow":
    """Return the workflow of a file, saved first, or of a name."""
    from millrace.cli.files import STDIN, SUFFIXES, check_files
    from millrace.client import RequestRefused

    path = Path(workflow)
    if path != STDIN and not path.is_file() and path.suffix not in SUFFIXES:
        try:
            return client.workflow(workflow)
        except RequestRefused as refusal:
            if refusal.code != "workflow_not_found":
                raise
            typer.secho(f'millrace: there is no file and no saved workflow "{workflow}"', fg="red", err=True)
            raise typer.Exit(1) from None
    checked = check_files([path])[0]
    for line in checked.lines():
        typer.secho(line, fg="yellow" if checked.name else "red", err=True)
    if checked.name is None:
        raise typer.Exit(1)
    saved, changed = client.save_workflow(checked.source, checked.name)
    if changed:
        typer.echo(f"saved {checked.name} version {saved['version']}", err=True)
    return saved


def _watched(client: "Client", execution_id: str, *, show: bool) -> "Execution":
    """Return the execution when it has ended, showing how it goes on."""
    from millrace.cli.show import open_console, print_execution

    console = open_console(quiet=not show)
    try:
        follow_live(client, execution_id, console)
    except KeyboardInterrupt:
        typer.echo(f"\n{execution_id} goes on: millrace executions show {execution_id}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    execution = client.execution(execution_id)
    print_execution(console, execution, steps=not console.is_terminal)
    return execution


def follow_live(client: "Client", execution_id: str, console: "Console") -> None:
    """Show the steps of an execution until it ends: a table that changes, or, where there is no terminal, lines."""
    from rich.live import Live

    from millrace.cli.progress import Progress

    progress = Progress.of(step["step_id"] for step in client.execution(execution_id)["step_executions"])
    if not console.is_terminal:
        for message in client.watch(execution_id):
            ended = progress.apply(message)
            if ended:
                console.print(f"{ended} {progress.steps[ended].status}", markup=False)
        return
    with Live(console=console, get_renderable=progress.table, refresh_per_second=8):
        for message in client.watch(execution_id):
            progress.apply(message)
