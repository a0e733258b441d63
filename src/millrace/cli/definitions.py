"""`millrace validate`, `apply`, `seed` and `schema`: workflow definitions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace.cli.server import AsJson, Key, Url, open_client, print_json, told

if TYPE_CHECKING:
    from millrace.cli.files import Checked


@told
def validate(
    files: Annotated[list[Path], typer.Argument(help="Definitions, directories of them, or - for standard input.")],
    as_json: AsJson = False,
) -> None:
    """Check definitions: every mistake at once, with its line and what would be right. Needs no server."""
    from millrace.cli.files import check_files

    checked = check_files(files)
    if as_json:
        print_json([_report(one) for one in checked])
    else:
        for one in checked:
            _tell(one)
            if one.name is not None:
                typer.echo(f"{one.path}: ok ({one.name})")
    if any(one.name is None for one in checked):
        raise typer.Exit(1)


@told
def apply(
    files: Annotated[list[Path] | None, typer.Argument(help="As with -f.", show_default=False)] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", "-f", help="A definition, a directory of them, or -. Repeatable.")
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Save definitions on the server. One that has not changed makes no new version; mistakes save nothing."""
    from millrace.cli.files import check_files

    paths = [*(file or []), *(files or [])]
    if not paths:
        raise typer.BadParameter("name at least one file: millrace apply -f workflow.yaml")
    _save(check_files(paths), url, key, skip_existing=False, as_json=as_json)


@told
def seed(
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave workflows alone that are there, whatever they hold.")
    ] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Save the example workflows on the server."""
    from millrace.cli.files import check_files
    from millrace.examples import example_files

    _save(check_files(example_files()), url, key, skip_existing=skip_existing, as_json=as_json)


def schema() -> None:
    """Print the JSON Schema of definitions, for editors. Needs no server."""
    from millrace_shared.definition.schema import json_schema

    print_json(json_schema())


def _save(checked: list["Checked"], url: str | None, key: str | None, *, skip_existing: bool, as_json: bool) -> None:
    from millrace.cli.files import in_order_of_use

    for one in checked:
        _tell(one)
    if any(one.name is None for one in checked):
        typer.secho("millrace: nothing was saved", fg="red", err=True)
        raise typer.Exit(1)
    saved: list[dict[str, Any]] = []
    with open_client(url, key) as client:
        for one in in_order_of_use(checked):
            assert one.name is not None
            there = client.workflows(name=one.name, limit=1)["items"] if skip_existing else []
            if there:
                outcome, workflow = "skipped", there[0]
            else:
                workflow, changed = client.save_workflow(one.source, one.name)
                outcome = "saved" if changed else "unchanged"
            saved.append({"name": one.name, "id": workflow["id"], "version": workflow["version"], "outcome": outcome})
            if not as_json:
                typer.echo(f"{one.name} version {workflow['version']} {outcome}")
    if as_json:
        print_json(saved)


def _tell(checked: "Checked") -> None:
    """Say what is wrong with a definition, on stderr."""
    for line in checked.lines():
        typer.secho(line, fg="yellow" if checked.name else "red", err=True)


def _report(checked: "Checked") -> dict[str, Any]:
    import dataclasses

    return {
        "file": str(checked.path),
        "name": checked.name,
        "valid": checked.name is not None,
        "errors": [dataclasses.asdict(problem) for problem in checked.problems],
        "warnings": [dataclasses.asdict(problem) for problem in checked.warnings],
    }
