"""`millrace triggers`: what starts executions by itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millrace.cli.server import AsJson, Key, Url, open_client, print_json, told

if TYPE_CHECKING:
    from millrace.client.triggers import Trigger

app = typer.Typer(help="Look at what starts executions by itself, and change it.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(metavar="TRIGGER", help="The trigger's id or name.", show_default=False)]


@app.command("ls")
@told
def list_triggers(
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List triggers, newest first."""
    with open_client(url, key) as client:
        page = client.triggers(limit=limit)
    if as_json:
        print_json(page)
        return
    from millrace.cli.show import moment_text, one_line, open_console, rows_table

    console = open_console()
    if not page["items"]:
        console.print("There are none.", style="dim")
        return
    rows = [
        (
            one["name"],
            one["kind"],
            one["workflow"],
            "" if one["enabled"] else "disabled",
            str(one["counts"]["fired"]),
            str(one["counts"]["failed"] or ""),
            moment_text(one["last_fired_at"]),
            one_line(_when(one)),
        )
        for one in page["items"]
    ]
    console.print(rows_table(("name", "kind", "workflow", "", ">fired", ">failed", "last", "fires"), rows))
    if page["total"] > len(page["items"]):
        console.print(f"{len(page['items'])} of {page['total']}", style="dim")


@app.command("show")
@told
def show_trigger(ref: Ref, url: Url = None, key: Key = None) -> None:
    """Show a trigger as JSON: what it does, when it fires next, and what has come of it."""
    with open_client(url, key) as client:
        print_json(client.trigger(ref))


@app.command("apply")
@told
def apply_triggers(
    files: Annotated[list[Path], typer.Argument(help="Triggers in YAML or JSON, one in each file; - is stdin.")],
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Save triggers, new or not, by the names that they have in the files."""
    sources = [(path, _read(path)) for path in files]
    saved = []
    with open_client(url, key) as client:
        for _, (name, source) in sources:
            trigger, is_new = client.save_trigger(source, name)
            saved.append(trigger)
            if not as_json:
                typer.echo(f"{name} {'saved' if is_new else 'replaced'}: {_when(trigger)}")
    if as_json:
        print_json(saved)


@app.command("enable")
@told
def enable_trigger(ref: Ref, url: Url = None, key: Key = None) -> None:
    """Let a trigger fire."""
    with open_client(url, key) as client:
        typer.echo(f"{ref} is enabled: {_when(client.change_trigger(ref, enabled=True))}")


@app.command("disable")
@told
def disable_trigger(ref: Ref, url: Url = None, key: Key = None) -> None:
    """Let a trigger fire no more, until it is enabled."""
    with open_client(url, key) as client:
        client.change_trigger(ref, enabled=False)
    typer.echo(f"{ref} is disabled")


@app.command("rm")
@told
def remove_trigger(ref: Ref, url: Url = None, key: Key = None) -> None:
    """Remove a trigger. What it has started goes on."""
    with open_client(url, key) as client:
        client.delete_trigger(ref)
    typer.echo(f"{ref} is removed")


@app.command("fire")
@told
def fire_trigger(
    ref: Ref,
    event: Annotated[str | None, typer.Option(metavar="JSON", help="What the trigger shall see as `event`.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Try a trigger out, enabled or not."""
    import json

    from millrace.cli.values import InputUnreadable

    try:
        value = None if event is None else json.loads(event)
    except (ValueError, RecursionError) as error:
        raise InputUnreadable(f"--event is no JSON: {error}") from None
    with open_client(url, key) as client:
        answer = client.fire(ref, value)
    if as_json:
        print_json(answer)
    else:
        typer.echo("its filter says no" if answer["filtered"] else f"{answer['execution_id']} started")


@app.command("token")
@told
def renew_token(ref: Ref, url: Url = None, key: Key = None) -> None:
    """Give a webhook another path, which is shown this once. The one before opens nothing any more."""
    with open_client(url, key) as client:
        typer.echo(client.renew_token(ref)["path"])


def _read(path: Path) -> tuple[str, bytes]:
    """Return the name of the trigger in a file, and the file."""
    from millrace.cli.files import FileUnreadable, read
    from millrace_shared.definition.errors import DefinitionInvalid
    from millrace_shared.definition.loader import load

    source = read(path)
    try:
        data = load(source).data
    except DefinitionInvalid as error:
        raise FileUnreadable(f"{path}: {error.problems[0]}") from None
    name = data.get("name") if isinstance(data, dict) else None
    if not isinstance(name, str) or not name:
        raise FileUnreadable(f"{path}: a trigger is an object with a name")
    return name, source


def _when(trigger: "Trigger") -> str:
    """Return in a few words when a trigger fires."""
    if not trigger["enabled"]:
        return "disabled"
    match trigger["kind"]:
        case "cron":
            return f"{trigger['cron']} {trigger['timezone']}, next {trigger['next_fire_at'] or 'never'}"
        case "event":
            return f"on {trigger['subject']}"
        case "webhook":
            return f"on POST {trigger['path']}"
        case "alert":
            return "on alerts " + (
                ", ".join(f"{name}={value}" for name, value in trigger["match"].items()) or "of any kind"
            )
