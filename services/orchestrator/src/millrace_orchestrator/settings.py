"""What the orchestrator reads from its environment, once, at start."""

from __future__ import annotations

from pydantic import Field

from millrace_shared.settings import Settings


class OrchestratorSettings(Settings):
    """Settings of the orchestrator."""

    orchestrator_cache_max: int = Field(
        10_000, ge=100, le=1_000_000, description="Executions whose state is kept in memory; others are folded anew."
    )
    orchestrator_timer_horizon_s: float = Field(
        60.0, ge=1, le=3600, description="A pause longer than this, in seconds, is a timer of the NATS server's."
    )
    log_compaction_hours: float = Field(
        24.0,
        ge=0,
        le=876_000,
        description="The log of an execution becomes one compressed message this many hours after its end; 0: never. "
        "Nothing is lost by that, and everything reads it as before.",
    )
    log_retention_days: float = Field(
        90.0,
        ge=0,
        le=36_500,
        description="The log of an execution is removed this many days after its end; 0 keeps it for ever. What it "
        "came to stays in Postgres.",
    )
