"""Workflows as the api keeps and shows them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from millrace_api.domain.rendering import timestamp
from millrace_shared.definition.model import WorkflowDefinition

SOURCE_BYTES_MAX = 1024 * 1024
"""A definition as sent, YAML or JSON."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A definition that passed validation, ready to be saved: its canonical bytes, their hash, and its source."""

    definition: WorkflowDefinition
    canonical: bytes
    content_hash: str
    source: str
    source_format: str
    warnings: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Workflow:
    """One version of a workflow. Of the others there is `latest_version`."""

    id: str
    workspace: str
    name: str
    description: str | None
    latest_version: int
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    version: int
    content_hash: str
    version_created_at: datetime
    created_by: str
    definition: str | None = None
    source: str | None = None
    source_format: str | None = None


def render(workflow: Workflow) -> dict[str, Any]:
    """Return a workflow as the api shows it; with its definition when that was read."""
    shown: dict[str, Any] = {
        "id": workflow.id,
        "name": workflow.name,
        "description": workflow.description,
        "version": workflow.version,
        "latest_version": workflow.latest_version,
        "content_hash": workflow.content_hash,
        "created_at": timestamp(workflow.created_at),
        "updated_at": timestamp(workflow.updated_at),
        "archived_at": timestamp(workflow.archived_at),
    }
    if workflow.definition is not None:
        shown["definition"] = msgspec.Raw(workflow.definition.encode())
        shown["source"] = workflow.source
        shown["source_format"] = workflow.source_format
    return shown


def render_version(workflow: Workflow) -> dict[str, Any]:
    """Return one version as the api shows it; with its definition when that was read."""
    shown: dict[str, Any] = {
        "workflow_id": workflow.id,
        "name": workflow.name,
        "version": workflow.version,
        "content_hash": workflow.content_hash,
        "created_at": timestamp(workflow.version_created_at),
        "created_by": workflow.created_by,
    }
    if workflow.definition is not None:
        shown["definition"] = msgspec.Raw(workflow.definition.encode())
        shown["source"] = workflow.source
        shown["source_format"] = workflow.source_format
    return shown
