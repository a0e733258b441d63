"""Deciding: finds an execution's state, has the core decide on what arrived, and makes a transition that fits.

The core is pure. What surrounds it here is what it cannot do: read logs and definitions, load claim-checked values that
expressions look into, and move values that are too large for a message to the blob store.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters.journal import Execution, Journal
from millrace_orchestrator.adapters.payloads import fit
from millrace_orchestrator.adapters.plans import Plans
from millrace_orchestrator.domain.children import report_of
from millrace_orchestrator.domain.commands import Abort, Command, Release, Tell, commands, early, outstanding
from millrace_orchestrator.domain.decide import abandon, decide, stillborn
from millrace_orchestrator.domain.errors import ImpossibleTransition, NotStarted
from millrace_orchestrator.domain.evolve import advance, evolve
from millrace_orchestrator.domain.fairness import Crowds
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import ExecutionState
from millrace_orchestrator.errors import DefinitionMissing, ExecutionBroken
from millrace_orchestrator.turn import Turn
from millrace_shared.blobs import Blobs
from millrace_shared.codec import encode
from millrace_shared.errors import MillraceError, ValueTooLarge
from millrace_shared.expressions.errors import BlobNeeded
from millrace_shared.expressions.program import Evaluate
from millrace_shared.messages import LOG_VERSION, ErrorInfo, Event, TimerFired, Transition
from millrace_shared.values import BlobRef

log = logging.getLogger(__name__)


class Decider:
    """Turns what arrived for an execution into a transition and its commands. Whatever fails is noted in the turn."""

    def __init__(self, journal: Journal, plans: Plans, blobs: Blobs, evaluate: Evaluate, crowds: Crowds) -> None:
        self._journal = journal
        self._plans = plans
        self._blobs = blobs
        self._evaluate = evaluate
        self._crowds = crowds

    def begin(self, turn: Turn) -> bool:
        """Take a start that comes for the first time, if its plan is in memory: it has no state to be found.

        Returns whether it was one, and nothing is left to load.
        """
        start = turn.start
        if start is None or (turn.is_again and not turn.is_fresh):
            return False
        plan = self._plans.known(start.definition, start.part)
        if plan is None:
            return False
        turn.execution = Execution(plan)
        return True

    async def load(self, turn: Turn) -> None:
        """Find the execution's state: in its log, or, for a start that comes for the first time, nowhere."""
        try:
            if turn.start is not None and (turn.is_fresh or not turn.is_again):
                turn.execution = Execution(await self._plans.get(turn.start.definition, turn.start.part))
                return
            turn.execution = await self._journal.load(turn.execution_id)
            if turn.execution is None and turn.start is not None:
                turn.execution = Execution(await self._plans.get(turn.start.definition, turn.start.part))
        except MillraceError as error:
            turn.failed = error
        except Exception as error:
            log.exception("execution %s cannot be loaded: a bug", turn.execution_id)
            turn.failed = ExecutionBroken(f"it cannot be loaded: {type(error).__name__}: {error}")

    async def decide(self, turn: Turn) -> None:
        """Decide on all of an execution's messages, as one transition."""
        if isinstance(turn.failed, DefinitionMissing):
            self._decide_stillborn(turn, turn.failed)
            return
        if turn.failed is not None or turn.execution is None:
            return
        try:
            await self._decide_with_values(turn, turn.execution)
        except ValueTooLarge as error:
            await self._abandon(turn, turn.execution, ErrorInfo("value_too_large", "value_too_large", str(error)))
        except (ImpossibleTransition, NotStarted) as error:
            await self._abandon_for_a_bug(turn, turn.execution, error)
        except MillraceError as error:
            turn.failed = error
        except Exception as error:  # noqa: BLE001  it is this execution's own: the others of the tick go on
            await self._abandon_for_a_bug(turn, turn.execution, error)

    async def _decide_with_values(self, turn: Turn, execution: Execution) -> None:
        loaded: dict[BlobRef, Any] = {}
        while True:
            try:
                state, now = execution.state, time.time()
                events: list[Event] = []
                crowded = self._crowds.is_crowded(_workspace(turn, execution))
                for _, message in turn.arrivals:
                    decision = decide(
                        execution.plan, state, message, now, self._evaluate, loaded, execution.memo, crowded=crowded
                    )
                    state = decision.state
                    events += decision.events
                    for digest, document in decision.definitions.items():
                        await self._plans.store(digest, document)
                await self._draft(turn, execution, state, tuple(events), now)
            except BlobNeeded as needed:
                workspace = _workspace(turn, execution)
                for reference in needed.refs:
                    loaded[reference] = await self._blobs.load(workspace, reference)
            else:
                if turn.events or not turn.from_memory:
                    return
                # The fence guards what is appended. That a message means nothing must be read from the log as well:
                # a stale memory would take the result of a step that somebody else has started for a late one.
                turn.from_memory = False
                execution = await self._journal.load(turn.execution_id) or execution
                turn.execution = execution

    async def _draft(
        self,
        turn: Turn,
        execution: Execution,
        state: ExecutionState | None,
        events: tuple[Event, ...],
        now: float,
    ) -> None:
        """Make the transition and the commands of `events`; without events, maybe the commands that are outstanding.

        `now` is the time at which they were decided: whoever folds the log must come to the same state.
        """
        if state is None:
            return
        if not events:
            turn.after = execution
            turn.commands = _performed(turn, execution.plan, state, events)
            return
        transition = Transition(LOG_VERSION, turn.execution_id, state.version + 1, now, events)
        fitted, turn.payload = await fit(self._blobs, state.request.workspace, transition)
        if fitted is not transition:  # values became references, and the state must say what the log says
            state = execution.state
            for event in fitted.events:
                state = evolve(execution.plan, state, event, now)
        state = advance(state, transition.version)
        turn.events = fitted.events
        turn.after = Execution(execution.plan, state, execution.sequence, execution.memo, now)
        turn.commands = _performed(turn, execution.plan, state, fitted.events)

    async def _abandon(self, turn: Turn, execution: Execution, error: ErrorInfo) -> None:
        request = execution.state.request if execution.state is not None else turn.start
        if request is None:
            return
        try:
            now = time.time()
            decision = abandon(execution.plan, execution.state, request, now, error)
            await self._draft(turn, execution, decision.state, decision.events, now)
        except MillraceError as obstacle:
            turn.failed = obstacle

    async def _abandon_for_a_bug(self, turn: Turn, execution: Execution, error: Exception) -> None:
        log.error("execution %s met a bug and is ended", turn.execution_id, exc_info=error)
        problem = f"a bug of the orchestrator: {type(error).__name__}: {error}"
        await self._abandon(turn, execution, ErrorInfo("internal", "internal", problem))

    def _decide_stillborn(self, turn: Turn, error: DefinitionMissing) -> None:
        if turn.start is None:
            return
        turn.failed, now = None, time.time()
        problem = ErrorInfo("definition_missing", "internal", str(error))
        turn.events = stillborn(turn.start, now, problem)
        turn.payload = encode(Transition(LOG_VERSION, turn.execution_id, 1, now, turn.events))
        told = report_of(turn.start, "failed", started_at=now, finished_at=now, error=problem)
        turn.commands = [*([Tell(told)] if told is not None else []), Release(turn.execution_id)]


def _performed(turn: Turn, plan: Plan, state: ExecutionState, events: tuple[Event, ...]) -> list[Command]:
    """Return what is to be performed after `events`, the state after them being `state`.

    When something may have been handled before, whoever did so may not have got to the end of it: then everything
    that the execution waits for is performed, whether or not there are events as well.
    """
    follows = commands(plan, state, events)
    if turn.is_again:
        again = list(outstanding(plan, state))
        why = turn.why_again
        for command in again:
            metrics.count_reemitted(command, why)
        if not state.finished and time.time() > state.deadline:
            metrics.overdue.inc()
        return [command for command in follows if isinstance(command, Abort)] + again
    for _, message in turn.arrivals:
        if isinstance(message, TimerFired):
            follows += early(state, message)
    return follows


def _workspace(turn: Turn, execution: Execution) -> str:
    if execution.state is not None:
        return execution.state.request.workspace
    assert turn.start is not None  # nothing is decided before the start
    return turn.start.workspace
