"""`millrace agents`: agents that are saved by themselves."""

from pathlib import Path
from typing import Annotated

import typer

from millrace.cli.server import AsJson, Key, Url, open_client, print_json, told

app = typer.Typer(help="Save agents by themselves, look at them, and ask one.", no_args_is_help=True)

Ref = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id or name.", show_default=False)]
Version = Annotated[int | None, typer.Option("--version", min=1, help="This version rather than the latest.")]


@app.command("apply")
@told
def apply_agents(
    files: Annotated[list[Path], typer.Argument(help="Agents in YAML or JSON, one in each file; - is stdin.")],
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Save agents by the names in the files. One that has not changed makes no new version; mistakes save nothing."""
    sources = _checked(files)
    saved = []
    with open_client(url, key) as client:
        for name, source in sources:
            agent, changed = client.save_agent(source, name)
            outcome = "saved" if changed else "unchanged"
            saved.append({"name": name, "id": agent["id"], "version": agent["version"], "outcome": outcome})
            if not as_json:
                typer.echo(f"{name} version {agent['version']} {outcome}")
    if as_json:
        print_json(saved)


@app.command("ls")
@told
def list_agents(
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List agents, newest first."""
    with open_client(url, key) as client:
        page = client.agents(limit=limit)
    if as_json:
        print_json(page)
        return
    from millrace.cli.show import moment_text, one_line, open_console, rows_table

    console = open_console()
    if not page["items"]:
        console.print("There are none.", style="dim")
        return
    rows = [
        (one["name"], str(one["version"]), moment_text(one["updated_at"]), one_line(one["description"] or ""))
        for one in page["items"]
    ]
    console.print(rows_table(("name", ">version", "changed", "description"), rows))
    if page["total"] > len(page["items"]):
        console.print(f"{len(page['items'])} of {page['total']}", style="dim")


@app.command("show")
@told
def show_agent(ref: Ref, version: Version = None, url: Url = None, key: Key = None) -> None:
    """Show an agent as JSON: what it is, and its source."""
    with open_client(url, key) as client:
        print_json(client.agent(ref, version))


@app.command("invoke")
@told
def invoke_agent(
    ref: Ref,
    prompt: Annotated[str, typer.Argument(help="What it is asked.", show_default=False)],
    data: Annotated[str | None, typer.Option("--input", metavar="JSON", help="Data that it is given.")] = None,
    version: Version = None,
    execution_name: Annotated[
        str | None, typer.Option("--name", help="The same name again is the same execution, not another one.")
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Ask an agent, and print its answer. After a minute it goes on without you: its execution is named."""
    import json

    from millrace.cli.values import InputUnreadable

    try:
        value = None if data is None else json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputUnreadable(f"--input is no JSON: {error}") from None
    with open_client(url, key) as client:
        execution = client.invoke(ref, prompt, value, version=version, execution_name=execution_name)
    if as_json:
        print_json(execution)
    elif execution["status"] == "completed":
        answer = (execution["results"] or {}).get("answer")
        typer.echo(answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False))
    else:
        about = execution["error_message"] or f"look at it with: millrace executions show {execution['id']}"
        typer.secho(f"millrace: execution {execution['id']} is {execution['status']}: {about}", fg="red", err=True)
    if execution["status"] != "completed":
        raise typer.Exit(1)


def _checked(files: list[Path]) -> list[tuple[str, bytes]]:
    """Return the agents of files with their names; every mistake is told on stderr, and ends the command."""
    from millrace.cli.files import read
    from millrace_shared.definition.errors import DefinitionInvalid
    from millrace_shared.definition.saved_agents import validate_agent

    sources, mistakes = [], 0
    for path in files:
        source = read(path)
        try:
            validated = validate_agent(source)
        except DefinitionInvalid as error:
            mistakes += len(error.problems)
            for problem in error.problems:
                line = f":{problem.line}:{problem.column}" if problem.line is not None else ""
                typer.secho(f"{path}{line}: {problem}", fg="red", err=True)
        else:
            sources.append((validated.name, source))
    if mistakes:
        typer.secho("millrace: nothing was saved", fg="red", err=True)
        raise typer.Exit(1)
    return sources
