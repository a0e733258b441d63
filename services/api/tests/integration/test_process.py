"""The api as a process: started by its module, stopped by a signal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from millrace_api.settings import ApiSettings

KEY = "test-bootstrap-key"


@pytest.fixture
def environment(nats_url: str, database_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "MILLRACE_NATS_URL": nats_url,
        "MILLRACE_DATABASE_URL": database_url,
        "MILLRACE_DATA_DIR": str(tmp_path),
        "MILLRACE_API_KEY": KEY,
        "MILLRACE_API_PORT": str(free_port()),
    }


def log_of(environment: dict[str, str], use: Callable[[httpx.Client], None]) -> str:
    """Run the api until it has been used and SIGTERM has ended it; return what it logged."""
    log = Path(environment["MILLRACE_DATA_DIR"]) / "api.log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "millrace_api"], env=environment, stderr=file)
    try:
        url = f"http://127.0.0.1:{environment['MILLRACE_API_PORT']}"
        with httpx.Client(base_url=url, trust_env=False) as http:
            wait_ready(http)
            use(http)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    return log.read_text()


def test_it_starts_serves_and_exits_with_0_on_sigterm(environment: dict[str, str]) -> None:
    def use(http: httpx.Client) -> None:
        assert http.get("/api/v1/workflows").status_code == 401

    logged = log_of(environment, use)
    assert "Traceback" not in logged
    assert KEY not in logged


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_a_key_in_an_address_reaches_no_log(environment: dict[str, str], level: str) -> None:
    wrong = "mistyped-secret-key"

    def use(http: httpx.Client) -> None:
        def socket(path: str) -> Any:
            return connect(f"{str(http.base_url).replace('http', 'ws', 1)}{path}", proxy=None)

        definition = {"name": f"watched-{level.lower()}", "steps": {"a": {"transform": 1}}}
        saved = http.post("/api/v1/workflows", json=definition, headers={"Authorization": f"Bearer {KEY}"})
        assert saved.status_code == 201
        with socket(f"/ws/workflows/{definition['name']}?access_token={KEY}"):
            pass
        for path in (f"/ws/workflows/{definition['name']}?access_token={wrong}", f"/ws/nowhere?access_token={KEY}"):
            with pytest.raises(InvalidStatus):
                socket(path)
        for key in (KEY, wrong):  # requests do not take it there, and do not repeat it either
            answer = http.get(f"/api/v1/workflows?access_token={key}")
            assert (answer.status_code, key in answer.text) == (401, False)

    logged = log_of({**environment, "MILLRACE_LOG_LEVEL": level}, use)
    assert logged
    assert KEY not in logged
    assert wrong not in logged


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MILLRACE_")}
    environment["MILLRACE_DATA_DIR"] = str(tmp_path)
    ended = subprocess.run([sys.executable, "-m", "millrace_api"], env=environment, capture_output=True, check=False)
    assert ended.returncode == 2
    assert b"MILLRACE_API_KEY" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_a_key_is_never_shown() -> None:
    settings = ApiSettings.load({"MILLRACE_API_KEY": "very-secret-key"})
    assert "very-secret-key" not in repr(settings)


def wait_ready(http: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if http.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("the api did not become ready")


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
