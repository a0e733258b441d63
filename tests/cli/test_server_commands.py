"""The commands that call a server, against a whole stack, found by its data directory alone."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Ran = subprocess.CompletedProcess[str]
Millrace = Callable[..., Ran]
WORKFLOW = """
name: cli-{name}
inputs: {{n: {{type: integer, default: 3}}}}
steps:
  first: {{transform: {{doubled: "${{{{ inputs.n * 2 }}}}"}}}}
  second: {{needs: [first], {second}}}
outputs: {{doubled: "${{{{ steps.first.output.doubled }}}}"}}
"""
FAILS = "python: 'millrace_agent_runner.functions.testing:crash'"
SLEEPS = "wait: {delay: 1h}"
DEADLINE_S = 60.0


@pytest.fixture
def millrace(stack_environment: dict[str, str], tmp_path: Path) -> Millrace:
    program = Path(sys.executable).with_name("millrace")

    def run(*arguments: str, **environment: str) -> Ran:
        ran = subprocess.run(
            [program, *arguments],
            env=stack_environment | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        sys.stderr.write(ran.stderr)  # shown when the test fails
        return ran

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, second: str = "transform: 1") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(WORKFLOW.format(name=name, second=second))
        return path

    return write


def test_applying_again_makes_no_version(millrace: Millrace, write: Callable[..., Path]):
    path = write("apply")
    assert millrace("apply", "-f", str(path)).stdout == "cli-apply version 1 saved\n"
    assert millrace("apply", str(path)).stdout == "cli-apply version 1 unchanged\n"
    write("apply", "transform: 2")
    [saved] = json.loads(millrace("apply", "-f", str(path), "--json").stdout)
    assert (saved["version"], saved["outcome"]) == (2, "saved")


def test_mistakes_save_nothing_of_all_files(millrace: Millrace, write: Callable[..., Path]):
    good, bad = write("not-saved"), write("bad", "transform: '${{ steps.frist.output }}'")
    ran = millrace("apply", "-f", str(good), "-f", str(bad))
    assert ran.returncode == 1
    assert 'did you mean "first"?' in ran.stderr
    assert "nothing was saved" in ran.stderr
    assert "there is no file and no saved workflow" in millrace("run", "cli-not-saved").stderr


def test_the_examples_are_seeded_once(millrace: Millrace):
    assert millrace("seed").returncode == 0
    again = millrace("seed", "--skip-existing").stdout.splitlines()
    assert len(again) == 15
    assert all(line.endswith("skipped") for line in again)


def test_without_watch_it_prints_the_id_alone(millrace: Millrace, write: Callable[..., Path]):
    execution_id = millrace("run", str(write("id"))).stdout.strip()
    assert len(execution_id) == 36
    assert execution_id in millrace("executions", "show", execution_id).stdout


def test_watching_ends_with_the_outputs(millrace: Millrace, write: Callable[..., Path]):
    ran = millrace("run", str(write("watch")), "-i", "n=21", "--watch")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[:2] == ["first completed", "second completed"]
    assert lines[-1] == "doubled: 42"


def test_a_failure_is_told_and_is_the_exit_code(millrace: Millrace, write: Callable[..., Path]):
    ran = millrace("run", str(write("fails", FAILS)), "--watch")
    assert ran.returncode == 1
    assert "second failed" in ran.stdout
    assert "user_code in step second: " in ran.stdout
    assert "crashed on purpose" in ran.stdout


def test_input_from_a_file_and_as_json(millrace: Millrace, write: Callable[..., Path], tmp_path: Path):
    (tmp_path / "input.json").write_text('{"n": 5}')
    ran = millrace("run", str(write("file")), "--input-file", "input.json", "--watch", "--json")
    execution = json.loads(ran.stdout)
    assert (execution["status"], execution["results"]) == ("completed", {"doubled": 10})


def test_the_same_name_is_the_same_execution(millrace: Millrace, write: Callable[..., Path]):
    path = str(write("named"))
    first = millrace("run", path, "--name", "once").stdout
    assert millrace("run", path, "--name", "once").stdout == first
    other = millrace("run", path, "--name", "once", "-i", "n=4")
    assert other.returncode == 1
    assert 'there is an execution "once" of this workflow already' in other.stderr


def test_wrong_input_names_every_mistake(millrace: Millrace, write: Callable[..., Path]):
    ran = millrace("run", str(write("wrong")), "-i", "n=x", "-i", "m=1")
    assert ran.returncode == 1
    assert "input.n: " in ran.stderr
    assert 'the workflow has no input "m"' in ran.stderr


def test_cancel_and_list(millrace: Millrace, write: Callable[..., Path]):
    execution_id = millrace("run", str(write("cancel", SLEEPS))).stdout.strip()
    assert millrace("executions", "cancel", execution_id, "--reason", "enough").returncode == 0
    deadline = time.monotonic() + DEADLINE_S
    while True:
        listed = millrace("executions", "ls", "--workflow", "cli-cancel", "--status", "cancelled", "--json").stdout
        if [one["id"] for one in json.loads(listed)["items"]] == [execution_id]:
            break
        assert time.monotonic() < deadline, listed
    again = millrace("executions", "cancel", execution_id)
    assert again.returncode == 1
    assert "has ended already: cancelled" in again.stderr


ASKS = "approval: {message: '?'}"


def waiting(millrace: Millrace, execution_id: str, reason: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        shown = json.loads(millrace("executions", "show", execution_id, "--json").stdout)
        second = shown["step_executions"][1]
        if (second["status"], second["reason"]) == ("waiting", reason):
            return
        assert time.monotonic() < deadline, shown


def test_an_answer_is_given_and_what_failed_is_retried(millrace: Millrace, write: Callable[..., Path]):
    execution_id = millrace("run", str(write("asks", ASKS))).stdout.strip()
    waiting(millrace, execution_id, "approval")
    assert millrace("executions", "pause", execution_id).stdout == f"{execution_id} is paused\n"
    assert millrace("executions", "resume", execution_id).stdout == f"{execution_id} is running\n"
    assert millrace("executions", "reject", execution_id, "second", "--note", "no").stdout == "second rejected\n"
    again = millrace("executions", "approve", execution_id, "second")
    assert again.returncode == 1
    assert "was decided already: rejected by" in again.stderr
    retry = millrace("executions", "retry", execution_id).stdout.strip()
    waiting(millrace, retry, "approval")
    assert millrace("executions", "approve", retry, "second").stdout == "second approved\n"
    compared = millrace("executions", "compare", execution_id, retry)
    assert "first" in compared.stdout
    fork = millrace(
        "executions", "fork", retry, "--from", "first", "-i", "n=4", "--breakpoint", "second"
    ).stdout.strip()
    waiting(millrace, fork, "breakpoint")
    assert millrace("executions", "continue", fork, "second").stdout == "second continued\n"
    waiting(millrace, fork, "approval")
    assert millrace("executions", "cancel", fork).returncode == 0


def test_ctrl_c_ends_the_watching_and_not_the_execution(
    millrace: Millrace, write: Callable[..., Path], stack_environment: dict[str, str]
):
    command = [Path(sys.executable).with_name("millrace"), "run", str(write("interrupt", SLEEPS)), "--watch"]
    environment = stack_environment | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first completed\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    hint = said.splitlines()[-1]
    assert " goes on: millrace executions show " in hint
    execution_id = hint.split()[0]
    assert "running" in millrace("executions", "show", execution_id).stdout
    assert millrace("executions", "cancel", execution_id).returncode == 0


def test_a_timeline(millrace: Millrace, write: Callable[..., Path]):
    ran = millrace("run", str(write("timeline")), "--watch", "--json")
    execution_id = json.loads(ran.stdout)["id"]
    timeline = json.loads(millrace("executions", "timeline", execution_id, "--json").stdout)
    assert [step["step_id"] for step in timeline["step_timeline"]] == ["first", "second"]
    assert "━" in millrace("executions", "timeline", execution_id).stdout or timeline["total_duration_seconds"] == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("executions", "show", "nope"), {}, 'there is no execution "nope"'),
        (("executions", "ls"), {"MILLRACE_API_KEY": "wrong-key"}, "set MILLRACE_API_KEY to the key"),
        (
            ("executions", "ls"),
            {"MILLRACE_API_URL": "http://127.0.0.1:9", "MILLRACE_API_KEY": "k"},
            "is `millrace up` running?",
        ),
        (("executions", "ls"), {"MILLRACE_DATA_DIR": "/nowhere"}, "no `millrace up` has run"),
    ],
)
def test_failures_say_what_to_do_and_show_no_traceback(
    millrace: Millrace, arguments: tuple[str, ...], environment: dict[str, str], message: str
):
    ran = millrace(*arguments, **environment)
    assert ran.returncode == 1
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
