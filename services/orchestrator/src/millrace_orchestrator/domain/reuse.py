"""Results of an earlier execution that stand in for running a step: what a retry or a fork need not pay again."""

from __future__ import annotations

import msgspec

from millrace_orchestrator.domain.drafting import Draft
from millrace_shared.expressions.errors import BlobNeeded
from millrace_shared.messages import Reuse, ReusedStep
from millrace_shared.values import Payload

_MEMO = "\x00reuse"
"""Where the decoded results are remembered; no step has this id."""


def reused_step(draft: Draft, step_id: str) -> ReusedStep | None:
    """Return what the request brings along for a step.

    Raises:
        BlobNeeded: the results are claim-checked, and not loaded yet.
    """
    reuse = _reuse(draft)
    return None if reuse is None else reuse.steps.get(step_id)


def source_of(draft: Draft) -> str:
    """Return the execution that the results come from."""
    reuse = _reuse(draft)
    return "" if reuse is None else reuse.execution_id


def item_output(draft: Draft, step_id: str, item: int) -> Payload | None:
    """Return what the request brings along for one item of a step."""
    step = reused_step(draft, step_id)
    return None if step is None else step.items.get(item)


def _reuse(draft: Draft) -> Reuse | None:
    payload = draft.state.request.reuse
    if payload.data is None and not payload.refs:
        return None
    known = draft.memo.get(_MEMO)
    if known is None:
        whole = payload.refs.get("")
        if whole is None:
            document = payload.data
        elif whole in draft.loaded:
            document = draft.loaded[whole]
        else:
            raise BlobNeeded(frozenset((whole,)))
        known = draft.memo[_MEMO] = [msgspec.convert(document, Reuse, str_keys=True)]
    reuse: Reuse = known[0]
    return reuse
