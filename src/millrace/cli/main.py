"""The `millrace` command: registers every command, and nothing else.

To add one, write its function in a module of this package and add a line below. A command's module imports
typer at its top and everything else inside the functions, so that `millrace --help` and shell completion stay
quick.
"""

from typing import Annotated

import typer

from millrace.cli import agents, dead, definitions, doctor, executions, run, service, triggers, up, why

app = typer.Typer(
    name="millrace",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals hold secrets
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"millrace {version('millrace')}")
        raise typer.Exit


@app.callback()
def millrace(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run workflows of LLM agents, and see what they did, how well, and at what cost."""


app.command("up")(up.up)
app.command("doctor")(doctor.doctor)
app.command("validate")(definitions.validate)
app.command("apply")(definitions.apply)
app.command("seed")(definitions.seed)
app.command("schema")(definitions.schema)
app.command("run")(run.run)
app.add_typer(executions.app, name="executions")
app.add_typer(triggers.app, name="triggers")
app.add_typer(agents.app, name="agents")
app.add_typer(dead.app, name="dead")
app.command("why")(why.why)
for name, body in service.COMMANDS.items():
    app.command(name, rich_help_panel="Services (each a process of its own)")(body)

if __name__ == "__main__":
    app()
