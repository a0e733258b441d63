"""What workflows, their versions and their metrics look like, for the OpenAPI document alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from millrace_api.routes.shapes import Mistake, Page


class Metrics(BaseModel):
    """Aggregates of a workflow's executions. Durations are of those that have ended."""

    total_executions: int
    successful_executions: int
    failed_executions: int
    success_rate: float | None = Field(description="0 to 100, of completed and failed ones; null when there are none.")
    total_duration_seconds: float
    average_duration_seconds: float | None
    min_duration_seconds: float | None
    max_duration_seconds: float | None
    p50_duration_seconds: float | None
    p95_duration_seconds: float | None
    p99_duration_seconds: float | None
    tokens_used: int
    cost_usd: float
    failures_by_category: dict[str, int]


class WorkflowSummary(BaseModel):
    """A workflow at one version."""

    id: str
    name: str
    description: str | None
    version: int
    latest_version: int
    content_hash: str
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


class WorkflowDetail(WorkflowSummary):
    """A workflow with its definition, and the source as its author wrote it."""

    definition: dict[str, Any]
    source: str
    source_format: Literal["json", "yaml"]
    warnings: list[Mistake] | None = None


class WorkflowPage(Page):
    """Workflows."""

    items: list[WorkflowSummary]


class VersionSummary(BaseModel):
    """One version of a workflow. It never changes."""

    workflow_id: str
    name: str
    version: int
    content_hash: str
    created_at: datetime
    created_by: str


class VersionDetail(VersionSummary):
    """One version with its definition and source."""

    definition: dict[str, Any]
    source: str
    source_format: Literal["json", "yaml"]


class VersionPage(Page):
    """Versions, newest first."""

    items: list[VersionSummary]


class Checked(BaseModel):
    """A definition without mistakes."""

    valid: Literal[True]
    name: str
    content_hash: str
    steps: int
    warnings: list[Mistake]


DEFINITION_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The definition, as YAML or JSON; its JSON Schema is at /api/v1/schema.",
        "content": {
            "application/yaml": {"schema": {"type": "string"}},
            "application/json": {"schema": {"type": "object"}},
        },
    }
}
