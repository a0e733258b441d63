"""The commands in the documentation, run against a real stack, must say what the documentation says they do."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from millrace.embedded import BackgroundStack, EmbeddedStack

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(r"<!-- (?P<mark>run|file: (?P<name>[\w.-]+)) -->\n```\w+\n(?P<body>.*?)```", re.DOTALL)
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
VARYING = (
    (ID, "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\dZ"), "MOMENT"),
    (re.compile(r"\d+(\.\d+)? (ms|s|min|h|d)\b( \d+ (s|min|h)\b)?"), "DURATION"),  # `59 min 59 s` is one, `60 min` too
    (re.compile(r"\d+ tokens"), "TOKENS"),
    (re.compile(r"version \d+( (saved|unchanged))?"), "VERSION"),
    (re.compile(r"\s+"), " "),
)
ANYTHING = "..."
TIMEOUT_S = 60


@dataclass(frozen=True)
class Command:
    line: str
    output: tuple[str, ...]


def normal(line: str) -> str:
    for pattern, word in VARYING:
        line = pattern.sub(word, line)
    return line.strip()


def commands(block: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, *output = part.splitlines()
        yield Command(line, tuple(output))


def matches(expected: tuple[str, ...], actual: list[str]) -> bool:
    """Whether the lines are the same, where `...` stands for any lines."""
    if not expected:
        return not actual
    first, *rest = expected
    if first.strip() == ANYTHING:
        return any(matches(tuple(rest), actual[start:]) for start in range(len(actual) + 1))
    return bool(actual) and normal(first) == normal(actual[0]) and matches(tuple(rest), actual[1:])


@pytest.fixture(scope="module")
def environment(
    server_directory: Callable[[], Path], user_of: Callable[[BackgroundStack], dict[str, str]]
) -> Iterator[dict[str, str]]:
    """A user's who has just started a stack: lists show what the page's commands did, as wide as it is on the page."""
    with EmbeddedStack(server_directory(), durability="interval").in_background() as running:
        yield user_of(running)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "<!-- run -->" in page.read_text()], ids=lambda page: page.name
)
def test_commands_do_what_the_page_says(page: Path, directory: Path, environment: dict[str, str]):
    millrace = str(Path(sys.executable).with_name("millrace"))
    ids: dict[str, str] = {}  # as the page has them, and as they are
    for marked in MARKED.finditer(page.read_text()):
        if marked["name"]:
            (directory / marked["name"]).write_text(marked["body"])
            continue
        for command in commands(marked["body"]):
            program, *arguments = (ids.get(word, word) for word in shlex.split(command.line))
            assert program == "millrace", f"{page.name} runs {program}"
            ran = subprocess.run(
                [millrace, *arguments],
                cwd=directory,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            assert ran.returncode == 0, f"$ {command.line}\n{ran.stdout}{ran.stderr}"
            assert matches(command.output, ran.stdout.splitlines()), f"$ {command.line}\n{ran.stdout}"
            if len(command.output) == 1 and ID.fullmatch(command.output[0]):
                ids[command.output[0]] = ran.stdout.strip()


def test_the_pages_that_tell_users_what_to_type_are_run():
    assert {page.name for page in PAGES if "<!-- run -->" in page.read_text()} >= {"README.md", "cli.md"}


def test_what_is_compared():
    assert matches(("a", "...", "d 3 ms"), ["a", "b", "c", "d  14 ms"])
    assert matches(("until then (in 59 min 59 s)",), ["until then (in 60 min)"])
    assert not matches(("in 59 min 59 s",), ["in 60 min, or never"])
    assert matches(("...",), [])
    assert not matches(("a", "b"), ["a", "x", "b"])
    assert not matches(("a",), ["a", "b"])
    assert not matches(("value: 5",), ["value: 6"])


def test_links_between_pages_lead_somewhere():
    pages = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "adr").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
