"""The habits that no linter knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIRECTORIES = ("src", "shared", "services", "tests", "benchmarks", "docs", "examples", "deploy", ".ci")
TEXTS = frozenset({".py", ".md", ".toml", ".yaml", ".yml", ".json", ".sql", ".lock", ".sh", ""})
LINES_MAX = 400
UNFINISHED = re.compile(rf"\b({'TO'}DO|{'FIX'}ME|{'XX'}X|{'HA'}CK)\b")
ELSEWHERE = re.compile(
    "|".join(
        (
            rf"{'py'}pi\.org",
            rf"files\.{'python'}hosted",
            rf"registry\.{'np'}mjs",
            rf"(?<![\w.])/{'wo'}rk/",
            rf"(?<![\w.])/{'ro'}ot/",
            rf"/{'ho'}me/[a-z]",
            rf"/{'Us'}ers/[a-z]",
        )
    )
)


def texts() -> Iterator[Path]:
    """Every file of ours that people read."""
    for path in sorted(ROOT.iterdir()):
        if path.is_file() and path.suffix in TEXTS and path.name != ".git":
            yield path
    for directory in DIRECTORIES:
        for path in sorted((ROOT / directory).rglob("*")):
            if path.is_file() and path.suffix in TEXTS and "__pycache__" not in path.parts:
                yield path


def programs() -> list[Path]:
    return [path for path in texts() if path.suffix == ".py"]


def is_test(path: Path) -> bool:
    return "tests" in path.relative_to(ROOT).parts


def test_files_are_short_enough_to_be_read():
    """Tests too: a longer one is about several subjects, each of which has a name to be found by."""
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in programs()}
    assert not {path: count for path, count in lines.items() if count > LINES_MAX}


def test_nothing_is_left_unfinished():
    for path in texts():
        found = UNFINISHED.search(path.read_text())
        assert found is None, f"{path.relative_to(ROOT)}: {found and found.group()}"


def test_nothing_names_a_registry_or_somebody_s_machine():
    for path in texts():
        found = ELSEWHERE.search(path.read_text())
        assert found is None, f"{path.relative_to(ROOT)}: {found and found.group()}"


FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def sleeps(tree: ast.AST, *, in_loop: bool = False, depth: int = 0) -> Iterator[int]:
    """The lines of sleeps of a fixed time that are no part of waiting for a condition, which is done in a loop.

    Functions in functions are not looked into: they stand for work that takes its time.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FUNCTIONS) and depth:
            continue
        if isinstance(node, ast.Call) and not in_loop:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name == "sleep" and node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value:
                yield node.lineno
        inside = isinstance(node, FUNCTIONS)
        yield from sleeps(node, in_loop=isinstance(node, ast.While) or (in_loop and not inside), depth=depth + inside)


def test_tests_wait_for_conditions_and_never_for_a_while():
    for path in programs():
        if is_test(path) or path.name == "conftest.py":
            lines = list(sleeps(ast.parse(path.read_text())))
            assert not lines, f"{path.relative_to(ROOT)} sleeps in lines {lines}"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("time.sleep(1)", [1]),
        ("def f():\n    await asyncio.sleep(0.5)", [2]),
        ("while not done():\n    time.sleep(0.01)", []),
        ("await asyncio.sleep(0)", []),
        ("while True:\n    def f():\n        sleep(3)", [3]),
        ("def test():\n    def work():\n        sleep(3)\n    sleep(1)", [4]),
    ],
)
def test_what_counts_as_a_sleep(code: str, found: list[int]):
    assert list(sleeps(ast.parse(code))) == found


def test_no_package_is_called_after_nothing():
    for path in programs():
        assert not re.fullmatch(r"(utils?|helpers?|misc|common|.*manager\d*)\.py", path.name), path.relative_to(ROOT)


def test_tests_are_no_packages():
    assert not [path for path in programs() if is_test(path) and path.name == "__init__.py"]
