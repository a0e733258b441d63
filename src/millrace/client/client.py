"""The calls of the HTTP contract as methods. Answers are plain JSON objects, see `shapes`."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import httpx

from millrace.client.errors import RequestRefused, ServerUnavailable, ServerUnreachable
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

PREFIX = "/api/v1"
ATTEMPTS_MAX = 4
BACKOFF_S = 0.2
"""The first pause before a request is sent again; each later one is twice as long."""
TIMEOUT_S = 30.0
WAIT_MARGIN_S = 5.0


class Client:
    """One api, one key. A context manager; not for several threads at once.

    A request is sent again, a few times, when nobody took it or the server says that it cannot right now, as long as
    doing it twice does no harm: reading, saving a definition, and starting an execution that has a name.

    Args:
        url: the api's address, without `/api/v1`.
        key: the API key.
        workspace: the slug of the workspace, for a key that sees several.
        timeout_s: how long an answer may take.
        transport: carries the requests in place of the network.
        pause: waits so many seconds between attempts.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        workspace: str | None = None,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} | ({"X-Workspace-Slug": workspace} if workspace else {})
        self._timeout_s = timeout_s
        self._pause = pause
        # The key must not go to where a proxy of the environment or a redirect leads.
        self._http = httpx.Client(
            base_url=self.url + PREFIX, headers=self._headers, timeout=timeout_s, trust_env=False, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def save_workflow(self, source: bytes, name: str) -> tuple[Workflow, bool]:
        """Save a definition, YAML or JSON, as the newest version of the workflow called `name`.

        Returns:
            The workflow, and whether this made a version: the same definition again does not.
        """
        answer = self._send(
            "PUT", f"/workflows/{_part(name)}", content=source, headers={"Content-Type": "application/yaml"}
        )
        return cast("Workflow", answer.json()), answer.status_code == httpx.codes.CREATED

    def workflow(self, ref: str) -> Workflow:
        """Return a workflow by id or name, at its latest version."""
        return cast("Workflow", self._send("GET", f"/workflows/{_part(ref)}").json())

    def workflows(self, *, name: str | None = None, limit: int = 10, cursor: str | None = None) -> WorkflowPage:
        """Return a page of workflows, newest first."""
        query = _present(name=name, limit=limit, cursor=cursor)
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
    ) -> Accepted:
        """Start an execution of a workflow, by id or name; it is durable when this returns.

        With an `execution_name` a repeat returns the first execution, so that lost answers are no trouble.
        """
        body = _launch(workflow, values, version, execution_name, priority, labels)
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
        body = _launch(workflow, values, version, execution_name, None, None)
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
        return cast("Execution", self._send("GET", f"/executions/{_part(execution_id)}").json())

    def executions(
        self,
        *,
        workflow: str | None = None,
        statuses: Sequence[str] = (),
        labels: Sequence[str] = (),
        limit: int = 10,
        cursor: str | None = None,
    ) -> ExecutionPage:
        """Return a page of executions, newest first; `labels` are `name:value`."""
        query = _present(workflow_id=workflow, status=list(statuses), label=list(labels), limit=limit, cursor=cursor)
        return cast("ExecutionPage", self._send("GET", "/executions", params=query).json())

    def timeline(self, execution_id: str) -> Timeline:
        """Return when each step of an execution ran."""
        return cast("Timeline", self._send("GET", f"/executions/{_part(execution_id)}/timeline").json())

    def why(self, execution_id: str) -> Why:
        """Return what an execution waits for, or how it ended."""
        return cast("Why", self._send("GET", f"/executions/{_part(execution_id)}/why").json())

    def graph(self, execution_id: str) -> Graph:
        """Return an execution's steps as nodes, and what they need as edges."""
        return cast("Graph", self._send("GET", f"/executions/{_part(execution_id)}/graph").json())

    def cancel(self, execution_id: str, reason: str | None = None) -> dict[str, Any]:
        """Ask an execution to stop. A second request stops its cleanup steps too, so this is never repeated alone."""
        answer = self._send("POST", f"/executions/{_part(execution_id)}/cancel", json=_present(reason=reason))
        return cast("dict[str, Any]", answer.json())

    def watch(self, execution_id: str, *, after: str | None = None) -> Iterator[LiveMessage]:
        """Yield what happens to an execution until it has ended, from the beginning or after a message's id.

        A broken connection is resumed where it broke.

        Raises:
            FeedLost: it could not be resumed.
        """
        self.execution(execution_id)  # a wrong id is refused with a problem document, which a socket could not show
        address = f"ws{self.url.removeprefix('http')}{PREFIX}/ws/executions/{_part(execution_id)}"
        return follow(address, self._headers, after, self._pause)

    def _send(self, method: str, path: str, *, repeatable: bool | None = None, **parts: Any) -> httpx.Response:
        repeatable = method in ("GET", "PUT") if repeatable is None else repeatable
        attempt = 1
        while True:
            try:
                return self._once(method, path, parts)
            except (ServerUnreachable, ServerUnavailable) as error:
                # A connection that was never made carried nothing, so anything may be tried again after it.
                harmless = repeatable or isinstance(error, ServerUnreachable)
                if not harmless or attempt >= ATTEMPTS_MAX:
                    raise
            self._pause(BACKOFF_S * 2 ** (attempt - 1))
            attempt += 1

    def _once(self, method: str, path: str, parts: dict[str, Any]) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **parts)
        except httpx.ConnectError as error:
            raise ServerUnreachable(self.url, str(error) or type(error).__name__) from error
        except httpx.TimeoutException as error:
            raise ServerUnavailable(
                f"{method} {self.url}{PREFIX}{path} was not answered in {self._timeout_s:g} s; whether it was done is "
                "unknown. Look before you repeat it."
            ) from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ServerUnavailable(f"{method} {self.url}{PREFIX}{path} was not answered: {reason}") from error
        except httpx.InvalidURL as error:
            raise ServerUnreachable(self.url, str(error)) from error
        if answer.is_success:
            return answer
        problem = _problem(answer)
        if answer.is_server_error:
            detail = problem.get("detail") or f"it answered {answer.status_code}"
            raise ServerUnavailable(f"{self.url} cannot do that right now: {detail}")
        raise RequestRefused(answer.status_code, problem)


def _problem(answer: httpx.Response) -> dict[str, Any]:
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if isinstance(problem, dict):
        return problem
    return {"detail": f"{answer.url} answered {answer.status_code}; is that a Millrace api?"}


def _launch(
    workflow: str,
    values: Mapping[str, Any] | None,
    version: int | None,
    execution_name: str | None,
    priority: str | None,
    labels: Mapping[str, str] | None,
) -> dict[str, Any]:
    return _present(
        workflow=workflow,
        input=dict(values or {}),
        version=version,
        execution_name=execution_name,
        priority=priority,
        labels=dict(labels) if labels else None,
    )


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None and value != []}


def _part(text: str) -> str:
    """Return a text as one part of a path, whatever it holds."""
    return quote(text, safe="") or "%20"
