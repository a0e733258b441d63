"""The files around the code agree with it: the lock, the generated docs, the Makefile, the command line's help."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command
from typer.testing import CliRunner

from millrace.cli.main import app

ROOT = Path(__file__).parents[2]
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)
HEAVY = ("asyncpg", "fastapi", "httpx", "nats", "pydantic", "pydantic_ai", "rich.table", "websockets", "yaml")


def requirements() -> list[Requirement]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    return [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["dev"])]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_the_lock_holds_every_dependency(requirement: Requirement):
    locked = {
        canonicalize_name(name): version for name, version in LOCKED.findall((ROOT / "requirements.lock").read_text())
    }
    version = locked.get(canonicalize_name(requirement.name))
    assert version is not None, "make lock"
    assert requirement.specifier.contains(version, prereleases=True)


def test_the_lock_has_hashes_and_names_no_host():
    lock = (ROOT / "requirements.lock").read_text()
    packages = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in lock
    assert "--index-url" not in lock
    assert "--find-links" not in lock


def test_the_generated_documentation_is_current():
    ran = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_target_of_the_makefile_says_what_it_does():
    shown = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert re.findall(r"^  (\w+) +\w", shown, re.MULTILINE) == phony[1].split()


def test_the_ci_runs_what_developers_run():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"


def every_command(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from every_command((*path, name), subcommand)


COMMANDS = list(every_command((), get_command(app)))


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=["millrace " + " ".join(path) for path, _ in COMMANDS])
def test_every_command_and_option_is_explained(path: tuple[str, ...], command: Any):
    ran = CliRunner().invoke(app, [*path, "--help"])
    assert ran.exit_code == 0
    assert command.help
    unexplained = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
    assert not unexplained


def test_starting_the_command_line_loads_nothing_heavy():
    """What each command needs it imports itself, so that help and completion answer at once."""
    code = "import sys, millrace.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(HEAVY) & set(loaded)


def test_the_wheel_holds_the_examples():
    with (ROOT / "pyproject.toml").open("rb") as file:
        included = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"examples/workflows": "millrace/example_workflows"}
