"""The api as a process: started by its module, stopped by a signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from millrace_api.settings import ApiSettings


def test_it_starts_serves_and_exits_with_0_on_sigterm(nats_url: str, database_url: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "MILLRACE_NATS_URL": nats_url,
        "MILLRACE_DATABASE_URL": database_url,
        "MILLRACE_DATA_DIR": str(tmp_path),
        "MILLRACE_API_KEY": "test-bootstrap-key",
        "MILLRACE_API_PORT": str(free_port()),
    }
    process = subprocess.Popen([sys.executable, "-m", "millrace_api"], env=environment, stderr=subprocess.PIPE)
    try:
        url = f"http://127.0.0.1:{environment['MILLRACE_API_PORT']}"
        with httpx.Client(base_url=url, trust_env=False) as http:
            wait_ready(http)
            assert http.get("/api/v1/workflows").status_code == 401
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, logged
    assert b"Traceback" not in logged
    assert b"test-bootstrap-key" not in logged


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
