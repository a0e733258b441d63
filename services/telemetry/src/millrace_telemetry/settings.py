"""What the telemetry service needs to know."""

from __future__ import annotations

from pydantic import Field

from millrace_shared.settings import DatabaseSettings


class TelemetrySettings(DatabaseSettings):
    """Settings of the telemetry service."""

    telemetry_batch_max: int = Field(500, ge=1, le=5_000, description="Most messages that one transaction projects.")
