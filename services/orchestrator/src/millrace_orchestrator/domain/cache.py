"""The key of a result in the result cache: the same work of the same workspace has the same one."""

from __future__ import annotations

import hashlib

import msgspec

from millrace_orchestrator.domain.binding import unit_scope
from millrace_orchestrator.domain.drafting import Draft
from millrace_orchestrator.domain.plan import PlannedStep
from millrace_shared.expressions.template import Resolved


def cache_key(draft: Draft, step: PlannedStep, item: int | None, resolved: Resolved) -> str:
    """Return the key of a unit's result; empty for a step without a cache.

    It covers the workspace, what the runner is told of the step, and the resolved input with the iteration of its loop
    or, when the author gives one, the key in their place. Secrets are covered by their names: their values are not
    known here.

    Raises:
        ExpressionError, BlobNeeded: the author's key cannot be evaluated.
    """
    if step.cache is None:
        return ""
    if step.cache.key is None:
        known: dict[str, object] = {"input": resolved.data, "refs": resolved.refs, "secrets": resolved.secrets}
        if (
            step.repeat is not None
        ):  # else a loop that asks the same again and again would get its first answer each time
            known["iteration"] = draft.state.step(step.id).unit(item).iteration
    else:
        key = step.cache.key.resolve(unit_scope(draft, step, item), draft.evaluate)
        known = {"key": key.data, "refs": key.refs}
    covered = (draft.state.request.workspace, step.kind, step.spec, known)
    return hashlib.sha256(msgspec.json.encode(covered, order="deterministic")).hexdigest()
