"""What every command that calls a server shares: its options, its client, and how its failures are told."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from millrace.client import Client

P = ParamSpec("P")
R = TypeVar("R")

Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="MILLRACE_API_URL", help="The api's address. Else: of the `millrace up` in MILLRACE_DATA_DIR."
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="MILLRACE_API_KEY",
        help="The API key. Rather set the variable: others on this machine can read command lines.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
ExecutionId = Annotated[str, typer.Argument(help="The execution's id.", show_default=False)]


def told(command: Callable[P, R]) -> Callable[P, R]:
    """Tell foreseen failures of a command as one message on stderr, and exit with 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from millrace_shared.errors import MillraceError

        try:
            return command(*args, **kwargs)
        except MillraceError as error:
            typer.secho(f"millrace: {error}", fg="red", err=True)
            raise typer.Exit(1) from None

    return run


def open_client(url: str | None, key: str | None) -> "Client":
    """Return a client of the server that the options, the environment or the data directory name.

    Raises:
        ServerNotFound: none of them does.
    """
    import os

    from millrace.client import Client, find_server

    server = find_server(url, key, os.environ)
    return Client(server.url, server.key)


def print_json(value: Any) -> None:
    """Print a value as indented JSON on stdout."""
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def tell(answer: Any, line: str, *, as_json: bool) -> None:
    """Print an answer as JSON for programs, and what it comes to as one line for people."""
    print_json(answer) if as_json else typer.echo(line)
