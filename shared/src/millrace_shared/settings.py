"""Settings: read from the environment once, at start, into one frozen object per process.

Every service's settings extend `Settings`. `load` reports every mistake at once, by variable name, and never shows the
value of a secret.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from millrace_shared.errors import SettingsInvalid

PREFIX = "MILLRACE_"
BLOB_SCHEMES = ("file", "s3", "gs", "az", "memory")


class Settings(BaseModel):
    """What every service needs to know. A field `nats_url` is read from `MILLRACE_NATS_URL`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats_url: SecretStr = Field(
        SecretStr("nats://127.0.0.1:4222"),
        description="NATS servers, separated by commas; may hold credentials.",
    )
    nats_replicas: int = Field(1, ge=1, le=5, description="Copies of each stream in a NATS cluster.")
    data_dir: Path = Field(Path(".millrace"), description="Where local files are kept.")
    blob_url: str | None = Field(
        None,
        description="Where large values are kept: file://, s3://, gs:// or az://. Default: `blobs` in data_dir.",
    )
    durability: Literal["fsync", "interval"] = Field(
        "fsync",
        description="Whether the bus makes a message durable before it acknowledges it. Informative: the "
        "embedded stack configures the NATS server by it, and figures are printed with it.",
    )
    ops_host: str = Field("127.0.0.1", description="Address of /healthz, /readyz and /metrics.")
    ops_port: int = Field(0, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics; 0 is any free one.")
    log_format: Literal["json", "console"] = Field("console", description="Log lines for machines or for people.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    instance: str = Field("", description="Name of this process among its like; host and process id when empty.")

    @field_validator("blob_url")
    @classmethod
    def _known_store(cls, url: str | None) -> str | None:
        if url is not None and urlsplit(url).scheme not in BLOB_SCHEMES:
            raise ValueError(f"it begins with one of {', '.join(f'{scheme}://' for scheme in BLOB_SCHEMES)}")
        return url

    @property
    def blobs(self) -> str:
        """The URL of the blob store."""
        return self.blob_url or f"file://{self.data_dir.absolute() / 'blobs'}"

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the settings.

        Raises:
            SettingsInvalid: naming every variable that is wrong, and why.
        """
        source = os.environ if environment is None else environment
        values = {
            name: source[PREFIX + name.upper()]
            for name in cls.model_fields
            if source.get(PREFIX + name.upper(), "") != ""
        }
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(
                f"{PREFIX}{'.'.join(map(str, one['loc'])).upper()}: {one['msg']}"
                for one in error.errors(include_input=False, include_context=False, include_url=False)
            )
            raise SettingsInvalid(problems) from None


class DatabaseSettings(Settings):
    """For the services that use Postgres."""

    database_url: SecretStr = Field(
        SecretStr("postgresql://millrace@127.0.0.1:5432/millrace"), description="The Postgres database."
    )
    database_pool_max: int = Field(10, ge=1, le=100, description="Most connections to Postgres.")
