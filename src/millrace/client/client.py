"""The calls of the HTTP contract as methods. Answers are plain JSON objects, see `shapes`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import httpx

from millrace.client.agents import Agents
from millrace.client.feed import follow
from millrace.client.shapes import (
    Accepted,
    Execution,
    ExecutionPage,
    Graph,
    LiveMessage,
    Priority,
    Timeline,
    Why,
    Workflow,
    WorkflowPage,
)
from millrace.client.steering import Steering
from millrace.client.transport import PREFIX, part, present
from millrace.client.triggers import Triggers

WAIT_MARGIN_S = 5.0


class Client(Steering, Triggers, Agents):
    """Everything that one api offers to one key. A context manager; not for several threads at once.

    See `Transport` for what it is made of, and for which requests are sent again.
    """

    def save_workflow(self, source: bytes, name: str) -> tuple[Workflow, bool]:
        """Save a definition, YAML or JSON, as the newest version of the workflow called `name`.

        Returns:
            The workflow, and whether this made a version: the same definition again does not.
        """
        answer = self._send(
            "PUT", f"/workflows/{part(name)}", content=source, headers={"Content-Type": "application/yaml"}
        )
        return cast("Workflow", answer.json()), answer.status_code == httpx.codes.CREATED

    def workflow(self, ref: str) -> Workflow:
        """Return a workflow by id or name, at its latest version."""
        return cast("Workflow", self._send("GET", f"/workflows/{part(ref)}").json())

    def workflows(self, *, name: str | None = None, limit: int = 10, cursor: str | None = None) -> WorkflowPage:
        """Return a page of workflows, newest first."""
        query = present(name=name, limit=limit, cursor=cursor)
        return cast("WorkflowPage", self._send("GET", "/workflows", params=query).json())

    def start(
        self,
        workflow: str,
        values: Mapping[str, Any] | None = None,
        *,
        version: int | None = None,
        execution_name: str | None = None,
        priority: Priority | None = None,
        labels: Mapping[str, str] | None = None,
        breakpoints: Sequence[str] = (),
    ) -> Accepted:
        """Start an execution of a workflow, by id or name; it is durable when this returns.

        With an `execution_name` a repeat returns the first execution, so that lost answers are no trouble. At
        `breakpoints` (ids of steps, `*` for all of them) it is held until it is continued.
        """
        body = _launch(workflow, values, version, execution_name, priority, labels, breakpoints)
        answer = self._send("POST", "/executions", json=body, repeatable=execution_name is not None)
        return cast("Accepted", answer.json())

    def run(
        self,
        workflow: str,
        values: Mapping[str, Any] | None = None,
        *,
        wait_s: float = 60.0,
        version: int | None = None,
        execution_name: str | None = None,
    ) -> Execution:
        """Start an execution and return it as it is when it has ended, or when `wait_s` (at most 60) are over."""
        body = _launch(workflow, values, version, execution_name, None, None, ())
        answer = self._send(
            "POST",
            "/executions",
            json=body,
            params={"wait": wait_s},
            timeout=wait_s + WAIT_MARGIN_S,
            repeatable=execution_name is not None,
        )
        shown = answer.json()
        return cast("Execution", shown) if "id" in shown else self.execution(shown["execution_id"])

    def execution(self, execution_id: str) -> Execution:
        """Return an execution with its steps."""
        return cast("Execution", self._send("GET", f"/executions/{part(execution_id)}").json())

    def executions(
        self,
        *,
        workflow: str | None = None,
        statuses: Sequence[str] = (),
        labels: Sequence[str] = (),
        parent_id: str | None = None,
        limit: int = 10,
        cursor: str | None = None,
    ) -> ExecutionPage:
        """Return a page of executions, newest first; `labels` are `name:value`.

        They are those at the top; with `parent_id`, those that perform the steps of that one.
        """
        query = present(
            workflow_id=workflow,
            status=list(statuses),
            label=list(labels),
            parent_id=parent_id,
            limit=limit,
            cursor=cursor,
        )
        return cast("ExecutionPage", self._send("GET", "/executions", params=query).json())

    def timeline(self, execution_id: str) -> Timeline:
        """Return when each step of an execution ran."""
        return cast("Timeline", self._send("GET", f"/executions/{part(execution_id)}/timeline").json())

    def why(self, execution_id: str) -> Why:
        """Return what an execution waits for, or how it ended."""
        return cast("Why", self._send("GET", f"/executions/{part(execution_id)}/why").json())

    def graph(self, execution_id: str) -> Graph:
        """Return an execution's steps as nodes, and what they need as edges."""
        return cast("Graph", self._send("GET", f"/executions/{part(execution_id)}/graph").json())

    def watch(self, execution_id: str, *, after: str | None = None) -> Iterator[LiveMessage]:
        """Yield what happens to an execution until it has ended, from the beginning or after a message's id.

        A broken connection is resumed where it broke.

        Raises:
            FeedLost: it could not be resumed.
        """
        self.execution(execution_id)  # a wrong id is refused with a problem document, which a socket could not show
        address = f"ws{self.url.removeprefix('http')}{PREFIX}/ws/executions/{part(execution_id)}"
        return follow(address, self._headers, after, self._pause)


def _launch(
    workflow: str,
    values: Mapping[str, Any] | None,
    version: int | None,
    execution_name: str | None,
    priority: str | None,
    labels: Mapping[str, str] | None,
    breakpoints: Sequence[str],
) -> dict[str, Any]:
    return present(
        workflow=workflow,
        input=dict(values or {}),
        version=version,
        execution_name=execution_name,
        priority=priority,
        labels=dict(labels) if labels else None,
        breakpoints=list(breakpoints),
    )
