"""`millrace dead`: messages that could not be processed."""

from typing import Annotated

import typer

from millrace.cli.server import AsJson, Key, Url, open_client, print_json, told

app = typer.Typer(help="Look at messages that could not be processed, and send them again.", no_args_is_help=True)


@app.command("ls")
@told
def list_dead(
    stream: Annotated[str | None, typer.Option(help="Of this stream only: TRIGGERS, INBOX, WORK, EVENTS, ...")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List messages that could not be processed, newest first. They are kept for 30 days."""
    with open_client(url, key) as client:
        page = client.dead(stream=stream, limit=limit)
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
            str(one["sequence"]),
            moment_text(one["at"]),
            one["subject"],
            "sent again" if one["redriven_at"] else "",
            one_line(one["reason"]),
        )
        for one in page["items"]
    ]
    console.print(rows_table((">sequence", "at", "subject", "", "reason"), rows))
    if page["total"] > len(page["items"]):
        console.print(f"{len(page['items'])} of {page['total']}", style="dim")


@app.command("show")
@told
def show_dead(
    sequence: Annotated[
        int, typer.Argument(min=1, help="The letter's sequence, as `ls` shows it.", show_default=False)
    ],
    url: Url = None,
    key: Key = None,
) -> None:
    """Show one as JSON, with the reason and its payload."""
    with open_client(url, key) as client:
        print_json(client.dead_letter(sequence))


@app.command("redrive")
@told
def redrive(
    sequences: Annotated[list[int], typer.Argument(min=1, help="The letters' sequences.", show_default=False)],
    again: Annotated[bool, typer.Option("--again", help="Although they were sent again before.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Send messages again, to where they were sent first, once what was wrong with them is put right."""
    with open_client(url, key) as client:
        for sequence in sequences:
            answer = client.redrive(sequence, again=again)
            if as_json:
                print_json(answer)
            else:
                typer.echo(f"{sequence} sent again to {answer['subject']}")
