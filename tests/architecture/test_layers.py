"""Who may import whom. import-linter judges layers (`pyproject.toml`), this what the domain may touch at all."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = [
    *sorted(ROOT.glob("services/*/src/*/domain")),
    ROOT / "shared/src/millrace_shared/definition",
    ROOT / "shared/src/millrace_shared/execution",
]
# fmt: off
IO = frozenset({
    "asyncio", "asyncpg", "concurrent", "fastapi", "faststream", "httpx", "multiprocessing", "nats", "obstore",
    "os", "pathlib", "psycopg", "select", "selectors", "shutil", "signal", "socket", "ssl", "starlette",
    "subprocess", "tempfile", "threading", "urllib3", "uvicorn", "uvloop", "websockets",
})
# fmt: on
CHANCE = frozenset({"random", "secrets", "time", "uuid"})
IO_OF_OURS = ("millrace_shared.bus", "millrace_shared.blobs", "millrace_shared.postgres", "millrace_shared.service")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_the_contracts_between_modules_hold():
    program = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_every_service_has_a_domain():
    assert len([path for path in PURE if path.name == "domain"]) == 4
    assert all(any(path.rglob("*.py")) for path in PURE)


@pytest.mark.parametrize("directory", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_domain_does_no_io(directory: Path):
    for path in directory.rglob("*.py"):
        for module in imports(path):
            assert module.partition(".")[0] not in IO, f"{path.relative_to(ROOT)} imports {module}"
            assert not module.startswith(IO_OF_OURS), f"{path.relative_to(ROOT)} imports {module}"


def test_the_state_machine_has_no_clock_and_no_chance_of_its_own():
    for path in (ROOT / "services/orchestrator/src/millrace_orchestrator/domain").rglob("*.py"):
        for module in imports(path):
            assert module.partition(".")[0] not in CHANCE, f"{path.relative_to(ROOT)} imports {module}"


def test_cel_is_imported_in_one_place():
    users = [
        path.relative_to(ROOT)
        for directory in ("src", "shared/src", "services")
        for path in (ROOT / directory).rglob("*.py")
        if any(module.startswith("cel_expr_python") for module in imports(path))
    ]
    assert {path.parent for path in users} == {Path("shared/src/millrace_shared/expressions")}
