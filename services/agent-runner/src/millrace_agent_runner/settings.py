"""What the agent runner reads from its environment, once, at start."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.domain.limits import Limit, read_limits
from millrace_agent_runner.domain.mcp_servers import McpServer, read_mcp_servers
from millrace_agent_runner.domain.prices import ModelPrice, read_prices
from millrace_shared.settings import Settings

SLOTS_MIN = 10
"""Each kind of work in each lane that is not crowded keeps a request open, and a request is credit: nine. The rest goes
to whatever waits; without any, crowded work would never run."""


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


class RunnerSettings(Settings):
    """Settings of the agent runner. Providers' keys are read by their usual names (OPENAI_API_KEY, ...)."""

    runner_slots: int = Field(32, ge=SLOTS_MIN, le=10_000, description="Attempts that run at the same time.")
    runner_grace_s: float = Field(
        25.0,
        ge=0,
        le=3600,
        description="How long running attempts may go on after SIGTERM, in seconds; less than the 30 s after which "
        "supervisors kill.",
    )
    python_modules: Annotated[str, Field(max_length=10_000)] = Field(
        "", description="Module prefixes, separated by commas, whose functions `python` steps may call."
    )
    http_allow: Annotated[str, Field(max_length=10_000)] = Field(
        "",
        description="Networks (CIDR) and hosts, separated by commas, that HTTP steps and tools may reach although "
        "they are not globally routable.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="The Postgres database that holds rate limits and budgets. Unset: those do not hold, and all else "
        "works.",
    )
    runner_database_pool_max: int = Field(
        4, ge=1, le=100, description="Most connections of one agent runner to Postgres."
    )
    rate_limits: Annotated[str, Field(max_length=200_000)] = Field(
        "",
        description="Rate limits that hold unless the database has others: a JSON array of objects with `provider`, "
        "`requests_per_minute`, `tokens_per_minute`, `model` and `workspace` (`*`, the default, is all together).",
    )
    scan_roots: Annotated[str, Field(max_length=10_000)] = Field(
        "",
        description="Directories, separated by commas, that the scanning functions may read, with all below them. "
        "Unset: they only take files from the input of a step.",
    )
    prices: Annotated[str, Field(max_length=1_000_000)] = Field(
        "",
        description="Prices that go before the price list's, unless the database has others: a JSON array of objects "
        "with `provider`, `model`, `input_per_million`, `output_per_million` (US dollars for a million tokens), "
        "`version`, and `cached_per_million` if input that was read before costs less.",
    )
    budgets_unpriced: Literal["refuse", "allow"] = Field(
        "refuse",
        description="Whether a call whose price nobody knows may be made under a budget in US dollars; `allow` counts "
        "it as free there. Its tokens and calls count in any case.",
    )
    mcp_servers: SecretStr = Field(
        SecretStr("{}"),
        max_length=1_000_000,
        description="MCP servers that agents may use as `mcp:<name>`: a JSON object of servers by name, each with "
        "`command`, `args`, `env` and `cwd` (the runner starts it), or `url` and `headers`.",
    )
    openai_base_url: str | None = Field(None, description="Any OpenAI-compatible endpoint, in place of OpenAI's own.")

    @field_validator("http_allow")
    @classmethod
    def _networks(cls, text: str) -> str:
        for entry in _list(text):
            if "/" in entry:
                ipaddress.ip_network(entry, strict=False)
        return text

    @field_validator("mcp_servers")
    @classmethod
    def _servers(cls, text: SecretStr) -> SecretStr:
        read_mcp_servers(text.get_secret_value())
        return text

    @field_validator("rate_limits")
    @classmethod
    def _limits(cls, text: str) -> str:
        read_limits(text)
        return text

    @field_validator("prices")
    @classmethod
    def _prices(cls, text: str) -> str:
        read_prices(text)
        return text

    @property
    def own_prices(self) -> tuple[ModelPrice, ...]:
        """The prices of `prices`."""
        return read_prices(self.prices)

    @property
    def offered_mcp_servers(self) -> dict[str, McpServer]:
        """The servers of `mcp_servers`."""
        return read_mcp_servers(self.mcp_servers.get_secret_value())

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits of `rate_limits`."""
        return read_limits(self.rate_limits)

    @property
    def module_prefixes(self) -> tuple[str, ...]:
        """The prefixes of `python_modules`."""
        return _list(self.python_modules)

    @property
    def scanned(self) -> tuple[str, ...]:
        """The directories of `scan_roots`."""
        return _list(self.scan_roots)

    @property
    def allowed(self) -> Allowed:
        """The exceptions of `http_allow`."""
        return Allowed.parse(_list(self.http_allow))
