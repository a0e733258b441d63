"""Definitions in files: finding them, reading them, and what is wrong with them."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from millrace_shared.definition.errors import DefinitionInvalid, Problem
from millrace_shared.definition.graph import topological_order
from millrace_shared.definition.limits import SOURCE_BYTES_MAX
from millrace_shared.definition.parts import uses_of
from millrace_shared.definition.validation import validate
from millrace_shared.errors import TerminalError

STDIN = Path("-")
SUFFIXES = frozenset({".yaml", ".yml", ".json"})


class FileUnreadable(TerminalError):
    """A file cannot be read."""


@dataclass(frozen=True)
class Checked:
    """A file with a definition, and what is wrong with it. `name` is None when there are mistakes.

    `uses` are the names of the workflows that its steps run.
    """

    path: Path
    source: bytes
    name: str | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    uses: frozenset[str] = frozenset()

    def lines(self) -> list[str]:
        """Return one line for each mistake, the way compilers do: `file:line:column: what is wrong`."""
        return [_line(self.path, problem, "") for problem in self.problems] + [
            _line(self.path, warning, "warning: ") for warning in self.warnings
        ]


def check_files(paths: Iterable[Path]) -> list[Checked]:
    """Read and check definitions; a directory stands for the definitions in it, `-` for standard input.

    Raises:
        FileUnreadable: a file cannot be read, or a directory holds no definition.
    """
    return [_check(path, read(path)) for given in paths for path in _expanded(given)]


def in_order_of_use(checked: Sequence[Checked]) -> list[Checked]:
    """Return definitions so that each comes after those that its steps run. Else they stay in their order."""
    places = {str(place): one for place, one in enumerate(checked)}
    needs = {
        place: [other for other, used in places.items() if used.name in one.uses and other != place]
        for place, one in places.items()
    }
    order = dict.fromkeys((*topological_order(needs), *places))  # those that run one another stay at the end
    return [places[place] for place in order]


def read(path: Path, size_bytes_max: int = SOURCE_BYTES_MAX) -> bytes:
    """Return what a file holds, up to one byte more than is allowed.

    Raises:
        FileUnreadable: it cannot be read.
    """
    try:
        if path == STDIN:
            return sys.stdin.buffer.read(size_bytes_max + 1)
        with path.open("rb") as file:
            return file.read(size_bytes_max + 1)
    except OSError as error:
        raise FileUnreadable(f"cannot read {path}: {error.strerror}") from None


def _expanded(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES and one.is_file())
    if not found:
        raise FileUnreadable(f"there is no definition (*.yaml, *.yml, *.json) in {path}")
    return found


def _check(path: Path, source: bytes) -> Checked:
    try:
        validated = validate(source)
    except DefinitionInvalid as error:
        return Checked(path, source, None, error.problems)
    uses = frozenset(name for name, _ in uses_of(validated.definition))
    return Checked(path, source, validated.definition.name, (), validated.warnings, uses)


def _line(path: Path, problem: Problem, kind: str) -> str:
    place = "".join(f":{number}" for number in (problem.line, problem.column) if number is not None)
    return f"{path}{place}: {kind}{problem}"
