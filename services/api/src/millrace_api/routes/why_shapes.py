"""What the answers of `why.py` look like, for the OpenAPI document alone."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from millrace_api.routes.shapes import Status, StepProgress


class Reason(BaseModel):
    """One thing that an execution waits for. `code` is stable."""

    code: str
    message: str = Field(description="A sentence.")
    step_id: str | None
    item: int | None
    until: datetime | None = Field(description="When it is over at the latest.")
    execution_id: str | None = Field(description="The other execution that it is about.")
    reasons: list[Reason] = Field(description="Why that is not over: of a child execution, or of items.")


class Why(BaseModel):
    """Why an execution is where it is. There is always a reason."""

    execution_id: str
    status: Status
    message: str = Field(description="The answer in one sentence.")
    reasons: list[Reason] = Field(min_length=1)
    as_of: datetime


class Node(StepProgress):
    """A step. `items` counts those of a `for_each` by status."""

    id: str
    name: str
    kind: str | None
    when: str | None
    run: str | None
    started_at: datetime | None
    completed_at: datetime | None
    duration: float | None
    retry_count: int
    item_count: int | None
    items: dict[str, int] | None


class Edge(BaseModel):
    """What a step needs. `satisfied`: the step at its beginning has ended, and counts as completed."""

    source: str = Field(alias="from")
    to: str
    status: Literal["pending", "satisfied", "unsatisfied"]


class Graph(BaseModel):
    """An execution as a graph, steps in the author's order."""

    execution_id: str
    workflow_id: str
    workflow_version: int
    part: str | None
    status: Status
    nodes: list[Node]
    edges: list[Edge]
