"""`millrace executions`: look at executions, steer them, and start new ones from them."""

from typing import Annotated

import typer

from millrace.cli import derivation, steering
from millrace.cli.server import AsJson, ExecutionId, Key, Url, open_client, print_json, told

app = typer.Typer(help="Look at executions, steer them, and start new ones from them.", no_args_is_help=True)


@app.command("ls")
@told
def list_executions(
    workflow: Annotated[str | None, typer.Option(help="Of this workflow only: its id or name.")] = None,
    status: Annotated[list[str] | None, typer.Option(help="With this status only. Repeatable.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="With this label only: name:value. Repeatable.")] = None,
    parent: Annotated[
        str | None, typer.Option(help="Those that perform the steps of this execution, rather than those at the top.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List executions, newest first."""
    with open_client(url, key) as client:
        page = client.executions(
            workflow=workflow, statuses=status or (), labels=label or (), parent_id=parent, limit=limit
        )
    if as_json:
        print_json(page)
        return
    from millrace.cli.show import executions_table, open_console

    console = open_console()
    if not page["items"]:
        console.print("There are none.", style="dim")
        return
    console.print(executions_table(page["items"]))
    if page["total"] > len(page["items"]):
        console.print(f"{len(page['items'])} of {page['total']}", style="dim")


@app.command("show")
@told
def show_execution(execution_id: ExecutionId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Show an execution: its steps, its outcome, and why it failed."""
    with open_client(url, key) as client:
        execution = client.execution(execution_id)
    if as_json:
        print_json(execution)
        return
    from millrace.cli.show import open_console, print_execution

    print_execution(open_console(), execution)


@app.command("timeline")
@told
def show_timeline(execution_id: ExecutionId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Show when each step of an execution ran."""
    with open_client(url, key) as client:
        timeline = client.timeline(execution_id)
    if as_json:
        print_json(timeline)
        return
    from millrace.cli.show import open_console, timeline_table

    open_console().print(timeline_table(timeline))


app.command("pause")(steering.pause)
app.command("resume")(steering.resume)
app.command("signal")(steering.signal)
app.command("approve")(steering.approve)
app.command("reject")(steering.reject)
app.command("continue")(steering.continue_)
app.command("cancel")(derivation.cancel)
app.command("retry")(derivation.retry)
app.command("fork")(derivation.fork)
app.command("replay")(derivation.replay)
app.command("compare")(derivation.compare)
