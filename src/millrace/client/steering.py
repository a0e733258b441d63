"""Steering executions that run, and starting new ones from them."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from millrace.client.shapes import Accepted, BulkAnswer, Comparison
from millrace.client.transport import Transport, part, present

BULK_TIMEOUT_S = 120.0
"""How long the answer to a request about a thousand executions may take."""


class Steering(Transport):
    """The calls that change what an execution does, or make another one of it."""

    def pause(self, execution_id: str, reason: str | None = None) -> dict[str, Any]:
        """Let nothing new start until `resume`. Steps that run may finish."""
        return self._steer(execution_id, "pause", present(reason=reason))

    def resume(self, execution_id: str) -> dict[str, Any]:
        """Let a paused execution go on."""
        return self._steer(execution_id, "resume", {})

    def cancel(self, execution_id: str, reason: str | None = None) -> dict[str, Any]:
        """Ask an execution to stop. A second request stops its cleanup steps too, so this is never repeated alone."""
        return self._steer(execution_id, "cancel", present(reason=reason))

    def signal(self, execution_id: str, name: str, data: Any = None, *, signal_id: str | None = None) -> dict[str, Any]:
        """Send a signal that steps wait for, or will. With a `signal_id` a repeat is the same signal."""
        body = present(name=name, data=data, id=signal_id)
        return self._steer(execution_id, "signal", body, repeatable=signal_id is not None)

    def approve(
        self, execution_id: str, step_id: str, *, note: str | None = None, data: Any = None, item: int | None = None
    ) -> dict[str, Any]:
        """Approve what a step asks; `data` is what its form asks for. The first answer counts."""
        return self._steer(execution_id, f"steps/{part(step_id)}/approve", present(note=note, data=data, item=item))

    def reject(
        self, execution_id: str, step_id: str, *, note: str | None = None, data: Any = None, item: int | None = None
    ) -> dict[str, Any]:
        """Reject what a step asks. The first answer counts."""
        return self._steer(execution_id, f"steps/{part(step_id)}/reject", present(note=note, data=data, item=item))

    def continue_step(self, execution_id: str, step_id: str, *, edited: Any = None) -> dict[str, Any]:
        """Let a step go on that a breakpoint holds, with an edited input if one is given."""
        return self._steer(execution_id, f"steps/{part(step_id)}/continue", present(input=edited))

    def retry(
        self, execution_id: str, *, execution_name: str | None = None, breakpoints: Sequence[str] = ()
    ) -> Accepted:
        """Start an execution that goes on where this one failed. What had completed is not paid again."""
        return self._derive(execution_id, "retry", execution_name, breakpoints)

    def replay(
        self, execution_id: str, *, execution_name: str | None = None, breakpoints: Sequence[str] = ()
    ) -> Accepted:
        """Start an execution of the same version with the same input."""
        return self._derive(execution_id, "replay", execution_name, breakpoints)

    def fork(
        self,
        execution_id: str,
        from_step: str,
        *,
        values: Mapping[str, Any] | None = None,
        version: int | None = None,
        execution_name: str | None = None,
        breakpoints: Sequence[str] = (),
    ) -> Accepted:
        """Start an execution that has what came before a step from this one, and runs the rest.

        Args:
            execution_id: the execution to fork.
            from_step: the first step that runs again.
            values: the whole input, if it is to be another one.
            version: the version of the workflow, if it is to be another one.
            execution_name: makes the request repeatable.
            breakpoints: steps to be held before they begin.
        """
        given = present(from_step=from_step, input=None if values is None else dict(values), version=version)
        return self._derive(execution_id, "fork", execution_name, breakpoints, **given)

    def compare(self, execution_id: str, other_id: str) -> Comparison:
        """Return what differs between two executions."""
        path = f"/executions/{part(execution_id)}/compare/{part(other_id)}"
        return cast("Comparison", self._send("GET", path).json())

    def cancel_many(self, *, reason: str | None = None, **criteria: Any) -> BulkAnswer:
        """Ask the executions that `criteria` find to stop.

        Args:
            reason: why, for those who look at it later.
            criteria: `workflow`, `statuses`, `labels`, `started_after`, `started_before`, `limit`, `dry_run`.
        """
        return self._bulk("cancel", present(reason=reason, **criteria), repeatable=bool(criteria.get("dry_run")))

    def retry_many(self, **criteria: Any) -> BulkAnswer:
        """Retry the executions that `criteria` find, each at most once; the criteria are those of `cancel_many`."""
        return self._bulk("retry", present(**criteria), repeatable=True)

    def _steer(
        self, execution_id: str, what: str, body: Mapping[str, Any], *, repeatable: bool = False
    ) -> dict[str, Any]:
        path = f"/executions/{part(execution_id)}/{what}"
        return cast("dict[str, Any]", self._send("POST", path, json=body, repeatable=repeatable).json())

    def _derive(
        self, execution_id: str, what: str, execution_name: str | None, breakpoints: Sequence[str], **given: Any
    ) -> Accepted:
        body = given | present(execution_name=execution_name, breakpoints=list(breakpoints))
        path = f"/executions/{part(execution_id)}/{what}"
        answer = self._send("POST", path, json=body, repeatable=execution_name is not None)
        return cast("Accepted", answer.json())

    def _bulk(self, what: str, body: Mapping[str, Any], *, repeatable: bool) -> BulkAnswer:
        path = f"/executions/bulk/{what}"
        answer = self._send("POST", path, json=body, repeatable=repeatable, timeout=BULK_TIMEOUT_S)
        return cast("BulkAnswer", answer.json())
