"""`millrace triggers`, against a whole stack."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Ran = subprocess.CompletedProcess[str]
Millrace = Callable[..., Ran]
WORKFLOW = "name: cli-triggered\ninputs: {n: {default: null}}\nsteps: {only: {transform: 1}}\n"
TRIGGER = """
name: {name}
kind: {kind}
workflow: cli-triggered
{rest}
"""


@pytest.fixture
def millrace(stack_environment: dict[str, str], tmp_path: Path) -> Millrace:
    program = Path(sys.executable).with_name("millrace")

    def run(*arguments: str) -> Ran:
        ran = subprocess.run(
            [program, *arguments],
            env=stack_environment,
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
def apply(millrace: Millrace, tmp_path: Path) -> Callable[..., Ran]:
    workflow = tmp_path / "workflow.yaml"
    workflow.write_text(WORKFLOW)
    assert millrace("apply", "-f", str(workflow)).returncode == 0

    def apply(name: str, kind: str, rest: str = "") -> Ran:
        path = tmp_path / f"{name}.yaml"
        path.write_text(TRIGGER.format(name=name, kind=kind, rest=rest))
        return millrace("triggers", "apply", str(path))

    return apply


def test_a_trigger_is_applied_listed_shown_stopped_and_removed(millrace: Millrace, apply: Callable[..., Ran]):
    rest = 'cron: "0 9 * * 1-5"\ntimezone: Europe/Berlin'
    saved = apply("cli-cron", "cron", rest)
    assert saved.stdout.startswith("cli-cron saved: 0 9 * * 1-5 Europe/Berlin, next 2")
    assert apply("cli-cron", "cron", rest).stdout.startswith("cli-cron replaced")
    listed = millrace("triggers", "ls").stdout
    assert "cli-cron" in listed
    assert "Europe/Berlin" in listed
    assert json.loads(millrace("triggers", "show", "cli-cron").stdout)["timezone"] == "Europe/Berlin"
    assert millrace("triggers", "disable", "cli-cron").stdout == "cli-cron is disabled\n"
    assert json.loads(millrace("triggers", "show", "cli-cron").stdout)["next_fire_at"] is None
    assert "next 2" in millrace("triggers", "enable", "cli-cron").stdout
    assert millrace("triggers", "rm", "cli-cron").returncode == 0
    gone = millrace("triggers", "show", "cli-cron")
    assert (gone.returncode, "there is no trigger" in gone.stderr) == (1, True)


def test_a_mistake_in_a_trigger_is_told_and_nothing_is_saved(millrace: Millrace, apply: Callable[..., Ran]):
    refused = apply("cli-never", "cron", 'cron: "0 0 30 2 *"')
    assert refused.returncode == 1
    assert "it never fires" in refused.stderr
    assert millrace("triggers", "show", "cli-never").returncode == 1
    nameless = millrace("triggers", "apply", "workflow.yaml", "nothing.yaml")
    assert (nameless.returncode, "cannot read nothing.yaml" in nameless.stderr) == (1, True)


def test_a_trigger_is_tried_out(millrace: Millrace, apply: Callable[..., Ran]):
    assert "on trigger.default.cli-event" in apply("cli-event", "event", "filter: event.n > 1").stdout
    started = millrace("triggers", "fire", "cli-event", "--event", '{"n": 2}').stdout
    assert started.endswith(" started\n")
    assert millrace("executions", "show", started.split()[0]).returncode == 0
    assert millrace("triggers", "fire", "cli-event", "--event", '{"n": 1}').stdout == "its filter says no\n"
    odd = millrace("triggers", "fire", "cli-event", "--event", "{")
    assert (odd.returncode, "--event is no JSON" in odd.stderr) == (1, True)


def test_a_webhook_shows_its_path_when_it_is_new(millrace: Millrace, apply: Callable[..., Ran]):
    first = apply("cli-hook", "webhook").stdout.split()[-1]
    second = millrace("triggers", "token", "cli-hook").stdout.strip()
    assert first.startswith("/api/v1/hooks/")
    assert second.startswith("/api/v1/hooks/")
    assert first != second
    assert second not in millrace("triggers", "ls").stdout
