"""The commands of the services, as someone types them beside a running `millrace up`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.embedded import BackgroundStack

MILLRACE = Path(sys.executable).with_name("millrace")
NAMES = ("MILLRACE_NATS_URL", "MILLRACE_DATABASE_URL")


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MILLRACE, *arguments], env=environment, capture_output=True, text=True, timeout=90, check=False
    )


def test_the_projection_is_rebuilt_from_the_log(stack_environment: dict[str, str], tmp_path: Path):
    path = tmp_path / "w.yaml"
    path.write_text("name: service-rebuild\nsteps: {a: {transform: 1}}\n")
    assert run(stack_environment, "run", str(path), "--watch").returncode == 0
    rebuilt = run(stack_environment, "telemetry", "rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert json.loads(rebuilt.stdout.splitlines()[-1])["EVENTS"] > 0
    assert all(name in rebuilt.stderr for name in NAMES)
    counts = run(stack_environment, "telemetry", "counts")
    assert json.loads(counts.stdout.splitlines()[-1])["executions"]["completed"] >= 1
    page = run(stack_environment, "executions", "ls", "--workflow", "service-rebuild", "--json")
    assert [one["status"] for one in json.loads(page.stdout)["items"]] == ["completed"]


def test_servers_that_are_named_go_before_those_of_the_data_directory(
    stack_environment: dict[str, str], running_stack: BackgroundStack
):
    refused = running_stack.database_url.replace("://millrace:", "://millrace:wrong-")
    ran = run(stack_environment | {"MILLRACE_DATABASE_URL": refused}, "telemetry", "counts")
    assert ran.returncode == 1
    assert ran.stderr.startswith("MILLRACE_NATS_URL: of the `millrace up` in ")
    assert "wrong-" not in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("task", ["nonsense", "drop"])
def test_there_are_no_other_tasks(stack_environment: dict[str, str], task: str):
    assert run(stack_environment, "telemetry", task).returncode == 2
