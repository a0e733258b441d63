"""`millrace doctor`: can the stack run here, and what to do if not."""

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    data_dir: Annotated[
        Path, typer.Option(envvar="MILLRACE_DATA_DIR", help="The directory that `up` would use.")
    ] = Path(".millrace"),
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check this machine and the configuration. Exits with 1 if the stack would not run."""
    import dataclasses
    import json
    import os

    from rich.console import Console
    from rich.text import Text

    from millrace.cli.checks import Verdict, run_checks

    findings = run_checks(data_dir, os.environ)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        colour = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
        console = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            verdict = (f"{finding.verdict:<5}", colour[finding.verdict])
            console.print(Text.assemble(verdict, f"{finding.name}: {finding.seen}"))
            if finding.advice:
                console.print(Text(f"     {finding.advice}", style="italic"))
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise typer.Exit(1)
