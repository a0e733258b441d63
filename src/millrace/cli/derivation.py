"""`millrace executions retry`, `fork`, `replay` and `compare`, and `cancel`: of one execution, or of many at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millrace.cli.server import AsJson, ExecutionId, Key, Url, open_client, print_json, tell, told

if TYPE_CHECKING:
    from millrace.client import Client
    from millrace.client.shapes import BulkAnswer, Comparison

BULK_MAX = 1_000

AnyExecutionId = Annotated[
    str | None, typer.Argument(metavar="EXECUTION_ID", help="The execution's id; none with --all.")
]
Breakpoints = Annotated[
    list[str] | None, typer.Option("--breakpoint", help="A step to be held before it begins; * is all. Repeatable.")
]
Name = Annotated[str | None, typer.Option("--name", help="The same name again is the same execution, not another one.")]
All = Annotated[bool, typer.Option("--all", help="Not one, but all that the options below find, the newest first.")]
Workflow = Annotated[str | None, typer.Option(help="With --all: of this workflow, by id or name.")]
Status = Annotated[list[str] | None, typer.Option(help="With --all: with this status. Repeatable.")]
Label = Annotated[list[str] | None, typer.Option(help="With --all: with this label, name:value or name. Repeatable.")]
After = Annotated[str | None, typer.Option("--started-after", help="With --all: started at this time or later.")]
Before = Annotated[str | None, typer.Option("--started-before", help="With --all: started before this time.")]
Limit = Annotated[int, typer.Option(min=1, max=BULK_MAX, help="With --all: at most so many.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With --all: say what would be done, and do nothing.")]


@told
def cancel(
    execution_id: AnyExecutionId = None,
    reason: Annotated[str | None, typer.Option(help="Why, for those who look at it later.")] = None,
    all_: All = False,
    workflow: Workflow = None,
    status: Status = None,
    label: Label = None,
    started_after: After = None,
    started_before: Before = None,
    limit: Limit = 100,
    dry_run: DryRun = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Stop executions: nothing new starts but their cleanup steps. A second cancel stops those too."""
    criteria = _criteria(execution_id, all_, workflow, status, label, started_after, started_before)
    with open_client(url, key) as client:
        if execution_id is None:
            many = client.cancel_many(reason=reason, limit=limit, dry_run=dry_run, **criteria)
            _tell_many(many, "being cancelled", as_json=as_json)
            return
        answer = client.cancel(execution_id, reason)
    tell(answer, f"{execution_id} is being cancelled", as_json=as_json)


@told
def retry(
    execution_id: AnyExecutionId = None,
    execution_name: Name = None,
    breakpoints: Breakpoints = None,
    all_: All = False,
    workflow: Workflow = None,
    status: Status = None,
    label: Label = None,
    started_after: After = None,
    started_before: Before = None,
    limit: Limit = 100,
    dry_run: DryRun = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Start failed executions again from where they failed, and print the new ids. What had completed is taken over."""
    criteria = _criteria(execution_id, all_, workflow, status, label, started_after, started_before)
    if execution_id is None and (execution_name or breakpoints):
        raise typer.BadParameter("--name and --breakpoint are for one execution, not for --all")
    with open_client(url, key) as client:
        if execution_id is None:
            _tell_many(client.retry_many(limit=limit, dry_run=dry_run, **criteria), "retried", as_json=as_json)
            return
        accepted = client.retry(execution_id, execution_name=execution_name, breakpoints=breakpoints or ())
    tell(accepted, accepted["execution_id"], as_json=as_json)


@told
def replay(
    execution_id: ExecutionId,
    execution_name: Name = None,
    breakpoints: Breakpoints = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Start the same version with the same input again, from the beginning, and print the new id."""
    with open_client(url, key) as client:
        accepted = client.replay(execution_id, execution_name=execution_name, breakpoints=breakpoints or ())
    tell(accepted, accepted["execution_id"], as_json=as_json)


@told
def fork(
    execution_id: ExecutionId,
    from_step: Annotated[
        str, typer.Option("--from", metavar="STEP", help="The first step that runs again.", show_default=False)
    ],
    values: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=VALUE", help="One input that is another one. Repeatable."),
    ] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input-file", help="All inputs as a JSON object; - is standard input.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Another version of the workflow.")] = None,
    execution_name: Name = None,
    breakpoints: Breakpoints = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Start an execution that takes over what came before a step, runs the rest, and print its id."""
    with open_client(url, key) as client:
        given = _inputs(client, execution_id, values or (), input_file) if values or input_file else None
        accepted = client.fork(
            execution_id,
            from_step,
            values=given,
            version=version,
            execution_name=execution_name,
            breakpoints=breakpoints or (),
        )
    tell(accepted, accepted["execution_id"], as_json=as_json)


@told
def compare(
    execution_id: ExecutionId,
    other_id: Annotated[str, typer.Argument(help="The other one's id.", show_default=False)],
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two executions."""
    with open_client(url, key) as client:
        comparison = client.compare(execution_id, other_id)
    print_json(comparison) if as_json else _print_comparison(comparison)


def _criteria(
    execution_id: str | None,
    all_: bool,
    workflow: str | None,
    statuses: Sequence[str] | None,
    labels: Sequence[str] | None,
    started_after: str | None,
    started_before: str | None,
) -> dict[str, Any]:
    if (execution_id is None) != all_:
        raise typer.BadParameter("name one execution, or give --all and what to look for")
    named: dict[str, str | None] = {}
    for label in labels or ():
        name, separator, value = label.partition(":")
        named[name] = value if separator else None
    criteria = {
        "workflow": workflow,
        "statuses": list(statuses) if statuses else None,
        "labels": named or None,
        "started_after": started_after,
        "started_before": started_before,
    }
    given = {name: one for name, one in criteria.items() if one is not None}
    if all_ and not given:
        raise typer.BadParameter("--all needs --workflow, --status, --label, --started-after or --started-before")
    if not all_ and given:
        raise typer.BadParameter(f"{', '.join(given)}: only with --all")
    return given


def _inputs(client: "Client", execution_id: str, pairs: Sequence[str], input_file: Path | None) -> Mapping[str, Any]:
    """Return the whole input of a fork: that of the file, else the execution's; the pairs go before either."""
    from millrace.cli.files import read
    from millrace.cli.run import INPUT_BYTES_MAX
    from millrace.cli.values import InputUnreadable, parse_input

    execution = client.execution(execution_id)
    definition = client.workflow(execution["workflow_id"]).get("definition") or {}
    document = None if input_file is None else read(input_file, INPUT_BYTES_MAX).decode(errors="replace")
    given = parse_input(pairs, document, definition)
    if document is not None:
        return given
    before = execution["input_variables"]
    if before.get("stored"):
        raise InputUnreadable("the execution's input is too large to be changed in part: give all of it: --input-file")
    return before | given


def _tell_many(answer: "BulkAnswer", done: str, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    for one in answer["done"]:
        new = f": {one['new_execution_id']}" if one.get("new_execution_id") else ""
        typer.echo(f"{one['execution_id']}{'' if answer['dry_run'] else f' is {done}'}{new}")
    for one in answer["refused"]:
        typer.secho(f"{one['execution_id']} {one.get('code')}: {one.get('detail')}", fg="yellow", err=True)
    left = answer["matched"] - len(answer["done"]) - len(answer["refused"])
    would = "would be " if answer["dry_run"] else ""
    more = f"; {left} more match" if left > 0 else ""
    typer.echo(f"{len(answer['done'])} {would}{done}, {len(answer['refused'])} refused{more}", err=True)


def _print_comparison(comparison: "Comparison") -> None:
    from millrace.cli.show import duration_text, open_console, rows_table, status_text, value_text

    console = open_console()
    rows = []
    for step in comparison["steps"]:
        sides = [step["a"], step["b"]]
        times = [duration_text(side["duration"]) if side else "" for side in sides]
        rows.append(
            [
                step["step_id"],
                *(status_text(side["status"]) if side else "" for side in sides),
                *times,
                "same" if step["same_output"] else f"differs in {len(step['output_differences'])}",
            ]
        )
    console.print(rows_table(["step", "a", "b", ">a", ">b", "output"], rows))
    for what, found in (("input", comparison["input_differences"]), ("result", comparison["result_differences"])):
        for one in found:
            before, after = value_text(one.get("a")), value_text(one.get("b"))
            line = f"{what} {one['path'] or '/'} {one['kind']}: {before} → {after}"
            console.print(line, markup=False, soft_wrap=True)
    if not comparison["same_definition"]:
        versions = (comparison["a"]["workflow_version"], comparison["b"]["workflow_version"])
        console.print(f"not the same definition: versions {versions[0]} and {versions[1]}", style="yellow")
