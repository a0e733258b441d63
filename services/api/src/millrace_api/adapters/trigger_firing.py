"""Firing triggers: from something that happened to an execution that is durable, once however often it is told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from millrace_api.adapters.acceptance import Acceptance
from millrace_api.adapters.trigger_tallies import Tallies
from millrace_api.domain.rendering import timestamp
from millrace_api.domain.trigger_rules import Occurrence, Rules, read_rules
from millrace_api.domain.triggers import Start, Tally, Trigger, plan
from millrace_api.errors import EventUnusable, Refused
from millrace_api.identity import Identity
from millrace_api.metrics import triggers_total
from millrace_shared.expressions.evaluators import BoundedEvaluator
from millrace_shared.messages import Origin

RULES_MAX = 1_000
"""Triggers whose compiled expressions are kept."""
ERROR_CHARS_MAX = 500
EVALUATIONS_AT_ONCE_MAX = 4
"""Threads that evaluate expressions. More would wait for the processor, or for the one process with bounds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an occurrence: `repeated` when it had started the execution before, `filtered` when none was."""

    kind: Literal["fired", "repeated", "filtered"]
    execution_id: str | None = None


class Firing:
    """Evaluates triggers, starts executions, and counts what came of it."""

    def __init__(self, acceptance: Acceptance, tallies: Tallies, now: Callable[[], float] = time.time) -> None:
        self._acceptance = acceptance
        self._tallies = tallies
        self._now = now
        self._evaluator = BoundedEvaluator()
        self._slots = asyncio.Semaphore(EVALUATIONS_AT_ONCE_MAX)
        self._rules: OrderedDict[tuple[str, datetime], Rules] = OrderedDict()

    async def fire(
        self,
        trigger: Trigger,
        occurrence: Occurrence,
        *,
        traceparent: str | None = None,
        scheduled_at: float | None = None,
    ) -> Outcome:
        """Start what a trigger starts, unless its filter says no.

        Args:
            trigger: the trigger.
            occurrence: what happened.
            traceparent: of whoever made it happen.
            scheduled_at: the time that a cron trigger is due for.

        Raises:
            EventUnusable: an expression has no value for this event.
            Refused: the workflow is gone or archived, or refuses the input.
            BusUnavailable, DatabaseUnavailable: nothing is known to have happened; try again.
        """
        try:
            outcome = await self._fire(trigger, occurrence, traceparent)
        except (EventUnusable, Refused) as error:
            self._count(trigger, "failed", Tally(failed=1, last_error=_told(error), last_error_at=self._moment()))
            raise
        if outcome.kind == "fired":
            scheduled = None if scheduled_at is None else datetime.fromtimestamp(scheduled_at, UTC)
            more = Tally(1, 0, 0, 0, 0, self._moment(), scheduled, outcome.execution_id)
        else:
            more = Tally(repeated=int(outcome.kind == "repeated"), filtered=int(outcome.kind == "filtered"))
        self._count(trigger, outcome.kind, more)
        return outcome

    def missed(self, trigger: Trigger) -> None:
        """Count a time that a cron trigger was not fired for."""
        self._count(trigger, "missed", Tally(missed=1))

    async def close(self) -> None:
        """End the process that evaluates expressions, and write the counts."""
        self._evaluator.close()
        await self._tallies.drain()

    async def _fire(self, trigger: Trigger, occurrence: Occurrence, traceparent: str | None) -> Outcome:
        start = await self._plan(trigger, occurrence)
        if start is None:
            return Outcome("filtered")
        identity = Identity(trigger.workspace, f"trigger:{trigger.id}")
        origin = Origin(trigger.kind, trigger_id=trigger.id)
        candidate = await self._acceptance.prepare(identity, start.launch, start.size_bytes, traceparent, origin)
        try:
            accepted = await self._acceptance.store(candidate)
        except Refused as refusal:
            if refusal.code != "execution_name_conflict":
                raise
            # It has started it, when its input mapping was another one.
            return Outcome("repeated", refusal.extra.get("execution_id"))
        return Outcome("fired" if accepted.first else "repeated", accepted.request.execution_id)

    async def _plan(self, trigger: Trigger, occurrence: Occurrence) -> Start | None:
        rules = self._rules_of(trigger)
        facts = {"fired_at": timestamp(self._now()), **occurrence.facts}
        complete = Occurrence(occurrence.event, facts, occurrence.identity, occurrence.by_hand)
        async with self._slots:
            # In a thread: an expression may wait for the process with bounds, for up to a second.
            return await asyncio.to_thread(plan, trigger, rules, complete, self._evaluator.evaluate)

    def _rules_of(self, trigger: Trigger) -> Rules:
        key = (trigger.id, trigger.updated_at)
        with contextlib.suppress(KeyError):
            self._rules.move_to_end(key)
            return self._rules[key]
        spec = trigger.spec
        rules, mistakes = read_rules(spec.kind, spec.filter, spec.dedupe, spec.input)
        if mistakes:  # it was saved by a version that knew more, or less
            raise EventUnusable(f"its expressions cannot be read any more: {mistakes[0]['msg']}; save it again")
        self._rules[key] = rules
        if len(self._rules) > RULES_MAX:
            self._rules.popitem(last=False)
        return rules

    def _count(self, trigger: Trigger, outcome: str, more: Tally) -> None:
        triggers_total.labels(trigger.kind, outcome).inc()
        self._tallies.add(trigger.id, more)

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)


def _told(error: EventUnusable | Refused) -> str:
    text = f"{error.code}: {error}" if isinstance(error, Refused) else str(error)
    return text.replace("\x00", "")[:ERROR_CHARS_MAX]
