"""The api's settings."""

from __future__ import annotations

from pydantic import Field, SecretStr

from millrace_shared.settings import DatabaseSettings


class ApiSettings(DatabaseSettings):
    """What the api needs to know, each field from `MILLRACE_` and its name in capitals."""

    api_host: str = Field("127.0.0.1", description="Address to listen on.")
    api_port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 is any free one.")
    api_key: SecretStr = Field(
        ..., min_length=8, description="The bootstrap API key: whoever sends it may do everything. Required."
    )
    api_drain_s: float = Field(
        10.0, ge=0, le=600, description="Seconds that open requests have to end when the process is told to stop."
    )
