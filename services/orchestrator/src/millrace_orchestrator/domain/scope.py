"""What expressions see of an execution, looked up lazily: the cost is that of what is read, not of the workflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import ExecutionState, Work
from millrace_shared.values import BlobRef, Payload, put_at

Loaded = Mapping[BlobRef, Any]
"""Claim-checked values that have been loaded because an expression looks into them."""


def scope_of(plan: Plan, state: ExecutionState, loaded: Loaded, item: tuple[int, Any] | None = None) -> dict[str, Any]:
    """Return the root names of an expression. `item` is (index, value) under `for_each`."""
    request = state.request
    scope: dict[str, Any] = {
        "inputs": value_of(request.input, loaded),
        "steps": _Steps(plan, state, loaded),
        "execution": {
            "id": request.execution_id,
            "name": request.execution_name,
            "started_at": _rfc3339(state.started_at),
        },
        "workflow": {"name": request.workflow_name, "version": request.workflow_version},
    }
    if item is not None:
        scope["index"], scope["item"] = item
    return scope


@lru_cache(maxsize=4_096)
def _rfc3339(seconds: float) -> str:
    """Return a time as text. The same one is asked for with every step of an execution."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class _Steps(Mapping[str, dict[str, Any]]):
    """`steps.<id>`: built when it is asked for."""

    __slots__ = ("_loaded", "_plan", "_state")

    def __init__(self, plan: Plan, state: ExecutionState, loaded: Loaded) -> None:
        self._plan = plan
        self._state = state
        self._loaded = loaded

    def __getitem__(self, step_id: str) -> dict[str, Any]:
        if step_id not in self._plan.steps:
            raise KeyError(step_id)
        work = self._state.step(step_id).work
        return {
            "output": value_of(work.output, self._loaded),
            "status": work.status,
            "error": error_value(work),
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._plan.steps)

    def __len__(self) -> int:
        return len(self._plan.steps)


def error_value(work: Work) -> dict[str, Any] | None:
    """Return a failed step's error as expressions see it. The error of an attempt that was repeated does not show."""
    if work.error is None or work.status not in {"failed", "timeout"}:
        return None
    return {"code": work.error.code, "category": work.error.category, "message": work.error.message}


def value_of(payload: Payload, loaded: Loaded) -> Any:
    """Return a payload as a value of a scope: what was loaded is in place, the rest stays a reference."""
    if not payload.refs:
        return payload.data
    whole = payload.refs.get("")
    if whole is not None:
        return loaded.get(whole, whole)
    data, refs = payload.data, {}
    for pointer, reference in payload.refs.items():
        if reference in loaded:
            data = put_at(data, pointer, loaded[reference])
        else:
            refs[pointer] = reference
    return Payload(data, refs) if refs else data
