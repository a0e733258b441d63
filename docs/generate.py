"""Writes the parts of the documentation that are generated from the code.

    python docs/generate.py            write them (`make docs`)
    python docs/generate.py --check    exit with 1 if a file is not what would be written

Whole files are generated, and parts of pages between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import httpx
import yaml
from pydantic import SecretStr
from pydantic_core import PydanticUndefined
from typer.main import get_command

from millrace.cli.main import app as cli
from millrace_agent_runner.settings import RunnerSettings
from millrace_api.adapters.trigger_asyncapi import document as asyncapi
from millrace_api.app import build
from millrace_api.domain.problems import PROBLEMS
from millrace_api.settings import ApiSettings
from millrace_orchestrator.domain import tables
from millrace_orchestrator.settings import OrchestratorSettings
from millrace_shared import subjects
from millrace_shared.bus.streams import STREAMS
from millrace_shared.definition.schema import json_schema
from millrace_shared.settings import PREFIX, DatabaseSettings, Settings
from millrace_telemetry.settings import TelemetrySettings

DOCS = Path(__file__).parent
PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SERVICES: Mapping[str, type[Settings]] = {
    "the api": ApiSettings,
    "the orchestrator": OrchestratorSettings,
    "the agent-runner": RunnerSettings,
    "telemetry": TelemetrySettings,
}


def files() -> dict[Path, str]:
    """Return every generated file, and every page with its generated parts renewed."""
    generated = {
        DOCS / "state-machine.md": tables.document(),
        DOCS / "openapi.json": _pretty(asyncio.run(openapi())),
        DOCS / "workflow-v1.schema.json": _pretty(json_schema()),
        DOCS / "asyncapi.yaml": _yaml(asyncapi()),
    }
    for page in sorted(DOCS.glob("*.md")):
        if page not in generated:
            generated[page] = PART.sub(_renewed, page.read_text())
    return generated


async def openapi() -> dict[str, Any]:
    """Return the OpenAPI document as the api serves it; that needs none of its adapters."""
    transport = httpx.ASGITransport(app=cast("Any", build(cast("Any", None))))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        answer = await client.get("/openapi.json")
    return cast("dict[str, Any]", answer.raise_for_status().json())


def settings_table() -> str:
    """Return a table of every environment variable: shared ones first, then those of each service."""
    rows = ["| variable | default | who reads it | meaning |", "|---|---|---|---|"]
    seen: set[str] = set()
    groups: list[tuple[str, type[Settings]]] = [
        ("every service", Settings),
        ("the api, telemetry; the agent-runner if it is set", DatabaseSettings),
    ]
    for reader, settings in [*groups, *SERVICES.items()]:
        for name, field in settings.model_fields.items():
            if name in seen:
                continue
            seen.add(name)
            default = field.default
            if isinstance(default, SecretStr):
                default = default.get_secret_value()
            shown = "required" if default is PydanticUndefined else "" if default in (None, "") else f"`{default}`"
            rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {reader} | {field.description} |")
    return "\n".join(rows)


def problems_table() -> str:
    """Return a table of the problems that the api answers with."""
    rows = ["| code | status | meaning | what to do |", "|---|---|---|---|"]
    rows += [f"| `{code}` | {kind.status} | {kind.title} | {kind.remedy} |" for code, kind in PROBLEMS.items()]
    return "\n".join(rows)


def subjects_table() -> str:
    """Return the table of subjects, from the docstring of the module that builds them."""
    return "\n".join(line for line in (subjects.__doc__ or "").splitlines() if line.startswith("|"))


def streams_table() -> str:
    """Return a table of the streams."""
    rows = ["| stream | subjects | retention | kept for |", "|---|---|---|---|"]
    for stream in STREAMS:
        kept = f"{stream.max_age_s / 86_400:g} days" if stream.max_age_s else "ever"
        kept = "until acknowledged" if stream.retention == "workqueue" else kept
        names = ", ".join(f"`{subject}`" for subject in stream.subjects)
        rows.append(f"| {stream.name} | {names} | {stream.retention} | {kept} |")
    return "\n".join(rows)


def commands() -> str:
    """Return every command of the command line, with its options."""
    return "\n".join(_command("millrace", get_command(cli)))


def _command(path: str, command: Any) -> list[str]:
    lines: list[str] = []
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        lines += [f"### `{path}`", "", (command.help or "").strip(), ""]
        rows = [_parameter(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            lines += ["| | default | |", "|---|---|---|", *rows, ""]
    for name, subcommand in (subcommands or {}).items():
        lines += _command(f"{path} {name}", subcommand)
    return lines


def _parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.metavar or parameter.name.upper()}`".replace("|", "\\|")
    else:
        name = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default
    shown = "" if default in (None, False, ()) or callable(default) else f"`{getattr(default, 'value', default)}`"
    variable = f" (`{parameter.envvar}`)" if getattr(parameter, "envvar", None) else ""
    return f"| {name} | {shown} | {(parameter.help or '').strip()}{variable} |"


PARTS: Mapping[str, Callable[[], str]] = {
    "settings": settings_table,
    "problems": problems_table,
    "subjects": subjects_table,
    "streams": streams_table,
    "commands": commands,
}


def _renewed(match: re.Match[str]) -> str:
    return f"{match[1]}{PARTS[match[2]]().strip()}\n{match[3]}"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as such."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _yaml(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# Generated by docs/generate.py from what the api serves.\n{text}"


def main() -> int:
    """Write the files, or compare them. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if something is out of date")
    check = parser.parse_args().check
    generated = files()
    stale = [path for path, text in generated.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not check:
            path.write_text(generated[path])
        print(f"{path.relative_to(DOCS.parent)} {'is out of date: make docs' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
