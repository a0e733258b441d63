"""A batch of stored messages, turned into rows. Pure.

There are two kinds: `LogBatch` from EVENTS, and `FactBatch` from TELEMETRY. Both take messages one by one, refuse
those that cannot be projected (`MessageInvalid`, and nothing of that message stays), and are then written as one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from millrace_shared.codec import decode_fact, encode
from millrace_shared.errors import MessageInvalid
from millrace_shared.execution import projection
from millrace_shared.execution.changes import ChangeSet, RowChange
from millrace_shared.execution.columns import without_nul
from millrace_shared.execution.tables import NO_ITEM
from millrace_shared.messages import LlmCall, StepStarted
from millrace_shared.subjects import execution_id_of

WorkflowKey = tuple[str, str]
"""Workspace and workflow id."""
Starts = dict[WorkflowKey, dict[str, RowChange]]
"""Rows of executions that begin, by workflow, and by id in the order of the log."""


class LogBatch:
    """Changes of the projected tables, merged per row."""

    def __init__(self) -> None:
        self.changes = ChangeSet()
        self.event_count = 0

    def add(self, subject: str, sequence: int, payload: bytes) -> None:
        """Take one message of EVENTS.

        Raises:
            MessageInvalid: it cannot be projected.
        """
        transition = projection.decode(payload)
        if transition.execution_id != execution_id_of(subject):
            raise MessageInvalid(f"a transition of {transition.execution_id} stands on {subject}")
        self.changes.merge(projection.changes(transition, sequence))
        self.event_count += len(transition.events)

    def starts(self) -> Starts:
        """Return the rows of the executions that begin in this batch.

        Groups and plans are left out: they belong to an execution that is counted.
        """
        starts: Starts = {}
        for (execution_id,), row in self.changes.tables.get("executions", {}).items():
            if "workflow_id" in row.set and not row.set.get("inline"):
                starts.setdefault((row.set["workspace"], row.set["workflow_id"]), {})[execution_id] = row
        return starts


class FactBatch:
    """Rows of the fact tables, each at most once. The last of two starts of one attempt counts."""

    def __init__(self) -> None:
        self.attempt_starts: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self.llm_calls: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self.event_count = 0

    def add(self, subject: str, sequence: int, payload: bytes) -> None:  # noqa: ARG002  the facts name themselves
        """Take one message of TELEMETRY. Facts that no table keeps are left out.

        Raises:
            MessageInvalid: it is not a fact.
        """
        fact = decode_fact(without_nul(payload))
        try:
            if isinstance(fact, StepStarted):
                self._step_started(fact)
            elif isinstance(fact, LlmCall):
                self._llm_call(fact)
        except (ValueError, OverflowError, OSError) as error:
            raise MessageInvalid(f"the fact holds an impossible time: {error}") from error

    def _step_started(self, fact: StepStarted) -> None:
        key = (fact.execution_id, fact.step, NO_ITEM if fact.item is None else fact.item, fact.attempt)
        self.attempt_starts[key] = (*key, _time(fact.at), fact.runner)

    def _llm_call(self, fact: LlmCall) -> None:
        item = NO_ITEM if fact.item is None else fact.item
        key = (fact.execution_id, fact.step, item, fact.attempt, fact.sequence, _time(fact.at))
        self.llm_calls[key] = (
            *key,
            fact.workspace,
            fact.workflow_id,
            fact.provider,
            fact.model,
            fact.duration_s,
            fact.input_tokens,
            fact.output_tokens,
            fact.cached_tokens,
            fact.reasoning_tokens,
            fact.cost_usd,
            fact.price_version,
            fact.time_to_first_token_s,
            fact.finish_reason,
            None if fact.error is None else encode(fact.error).decode(),
            None if fact.error is None else fact.error.category,
        )


Batch = LogBatch | FactBatch


def _time(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
