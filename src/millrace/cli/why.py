"""`millrace why`: say what an execution waits for."""

from typing import TYPE_CHECKING, Annotated

import typer

from millrace.cli.server import AsJson, Key, Url, open_client, print_json, told

if TYPE_CHECKING:
    from millrace.client.shapes import Reason

INDENT = "  "


@told
def why(
    execution_id: Annotated[str, typer.Argument(help="The execution's id.", show_default=False)],
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Say why an execution has not ended, a sentence for each thing that it waits for, or how it ended."""
    with open_client(url, key) as client:
        answer = client.why(execution_id)
    if as_json:
        print_json(answer)
        return
    for reason in answer["reasons"]:
        _print(reason, "")


def _print(reason: "Reason", indent: str) -> None:
    """Print a sentence; what stands below it is in it if that is a single thing."""
    typer.echo(f"{indent}{reason['message']}")
    if len(reason["reasons"]) > 1:
        for inner in reason["reasons"]:
            _print(inner, indent + INDENT)
