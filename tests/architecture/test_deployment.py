"""The files for a deployment say what the code says. No Docker engine is needed to know that much."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace.embedded.binaries import nats_server
from millrace_agent_runner.settings import RunnerSettings
from millrace_api.settings import ApiSettings
from millrace_orchestrator.settings import OrchestratorSettings
from millrace_telemetry.settings import TelemetrySettings

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "api": ApiSettings,
    "orchestrator": OrchestratorSettings,
    "agent-runner": RunnerSettings,
    "telemetry": TelemetrySettings,
}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def test_the_four_services_and_what_they_need_are_there() -> None:
    assert {"nats", "postgres", "prometheus", "grafana", *SETTINGS} == set(compose()["services"])


@pytest.mark.parametrize("service", SETTINGS)
def test_every_setting_exists_in_the_service_it_is_given_to(service: str) -> None:
    known = {f"MILLRACE_{name.upper()}" for name in SETTINGS[service].model_fields}
    given = {name for name in compose()["services"][service]["environment"] if name.startswith("MILLRACE_")}
    assert given <= known


def test_images_are_pinned_by_version() -> None:
    images = [service["image"] for service in compose()["services"].values() if "image" in service]
    assert all(re.search(r":v?\d+\.\d+(\.\d+)?", image) for image in images), images


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"(PASSWORD|MILLRACE_API_KEY):-", text)


def test_the_nats_server_accepts_its_configuration() -> None:
    command = [str(nats_server()), "-t", "-c", str(ROOT / "deploy/nats/nats.conf")]
    environment = {**os.environ, "NATS_PASSWORD": "for-the-test"}
    checked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr


def test_prometheus_scrapes_every_service_on_the_port_it_has() -> None:
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    ports = {job["job_name"]: job["dns_sd_configs"][0]["port"] for job in jobs}
    dockerfile = (ROOT / "Dockerfile").read_text()
    ops = int(re.search(r"MILLRACE_OPS_PORT=(\d+)", dockerfile)[1])  # type: ignore[index]
    api = int(re.search(r"MILLRACE_API_PORT=(\d+)", dockerfile)[1])  # type: ignore[index]
    assert ports == {"api": api, **dict.fromkeys(("orchestrator", "agent-runner", "telemetry"), ops)}
