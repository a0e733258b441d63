import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millrace.cli import checks
from millrace.cli.checks import Finding, Verdict
from millrace.cli.main import app


def finding(findings: list[Finding], name: str) -> Finding:
    return next(one for one in findings if one.name == name)


def test_this_machine_can_run_the_stack(tmp_path: Path):
    findings = checks.run_checks(tmp_path / "data", {})
    assert [one for one in findings if one.verdict is Verdict.FAIL] == []
    assert "2.15" in finding(findings, "nats-server").seen
    assert "PostgreSQL) 18" in finding(findings, "postgres").seen
    assert not (tmp_path / "data").exists()


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: Path):
    nothing = {
        "MILLRACE_NATS_URL": "nats://u:top-secret@127.0.0.1:1",
        "MILLRACE_DATABASE_URL": "postgresql://u:top-secret@127.0.0.1:1/x",
        "MILLRACE_OPENAI_BASE_URL": "http://127.0.0.1:1/v1?key=top-secret",
        "GROQ_API_KEY": "top-secret",
    }
    findings = checks.run_checks(tmp_path, nothing)
    for name in ("MILLRACE_NATS_URL", "MILLRACE_DATABASE_URL"):
        assert finding(findings, name).verdict is Verdict.FAIL
        assert "127.0.0.1:1" in finding(findings, name).seen
    assert finding(findings, "MILLRACE_OPENAI_BASE_URL").verdict is Verdict.WARN
    assert all(one.advice for one in findings if one.verdict is not Verdict.OK)
    assert finding(findings, "provider keys") == Finding("provider keys", Verdict.OK, "GROQ_API_KEY")
    assert "top-secret" not in str(findings)


def test_servers_of_ones_own_are_asked(tmp_path: Path, nats_url: str, database_url: str):
    own = {"MILLRACE_NATS_URL": nats_url, "MILLRACE_DATABASE_URL": database_url}
    findings = checks.run_checks(tmp_path, own)
    assert finding(findings, "MILLRACE_NATS_URL").verdict is Verdict.OK
    assert finding(findings, "MILLRACE_DATABASE_URL").seen.endswith("PostgreSQL 18")


def test_a_nats_server_without_jetstream_is_not_enough(tmp_path: Path):
    from millrace.embedded import binaries
    from millrace.embedded.ports import choose_free

    port = choose_free()
    command = [str(binaries.nats_server()), "-a", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        assert any("Server is ready" in line for line in server.stderr)
        findings = checks.run_checks(tmp_path, {"MILLRACE_NATS_URL": f"nats://127.0.0.1:{port}"})
        server.kill()
    assert finding(findings, "MILLRACE_NATS_URL").verdict is Verdict.FAIL


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a RAM disk")
def test_a_disk_that_is_memory_is_noticed():
    found = checks.check_fsync(Path("/dev/shm"))
    assert found.verdict is Verdict.WARN
    assert "power failure" in found.advice


def test_a_full_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)
    for free, verdict in ((10**6, Verdict.FAIL), (10**9, Verdict.WARN), (10**11, Verdict.OK)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        assert checks.check_disk(tmp_path).verdict is verdict


def test_another_users_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    found = checks.check_data_directory(tmp_path)
    assert found.verdict is Verdict.FAIL
    assert "another user's" in found.seen


def test_the_command_prints_json_and_exits_with_1_when_something_fails(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = f"nats://127.0.0.1:{taken.getsockname()[1]}"
        result = CliRunner().invoke(
            app, ["doctor", "--json"], env={"MILLRACE_DATA_DIR": str(tmp_path), "MILLRACE_NATS_URL": nowhere}
        )
    assert result.exit_code == 1
    verdicts = {one["name"]: one["verdict"] for one in json.loads(result.output)}
    assert verdicts["MILLRACE_NATS_URL"] == "fail"
    assert verdicts["python"] == "ok"


def test_the_command_exits_with_0_when_nothing_fails(tmp_path: Path):
    result = CliRunner().invoke(app, ["doctor"], env={"MILLRACE_DATA_DIR": str(tmp_path)})
    assert result.exit_code == 0
    assert "provider keys" in result.output


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from millrace.cli.main import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print([m for m in ('nats', 'asyncpg', 'pydantic', 'fastapi', 'httpx') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
