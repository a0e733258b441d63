"""The engine: takes what has arrived, decides, commits, and has done what follows. One tick after the other.

    arrivals ─► decode ─► group by execution ─► load ─► decide ─► commit (one fsync) ─► perform commands ─► acknowledge

A tick takes everything that has arrived, so under load the transitions of many executions share a commit, and a single
execution waits for nobody. Whatever fails on the way is not acknowledged and comes again; the state machine makes that
harmless, and a message that comes again also has its execution's outstanding commands performed again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters.dispatcher import Dispatcher
from millrace_orchestrator.adapters.inbox import Arrival, Inbox
from millrace_orchestrator.adapters.journal import Append, Execution, Journal
from millrace_orchestrator.adapters.payloads import fit
from millrace_orchestrator.adapters.plans import Plans
from millrace_orchestrator.domain.commands import Command, Release, commands, outstanding
from millrace_orchestrator.domain.decide import abandon, decide, stillborn
from millrace_orchestrator.domain.errors import ImpossibleTransition, NotStarted
from millrace_orchestrator.domain.evolve import advance, evolve
from millrace_orchestrator.domain.state import ExecutionState
from millrace_orchestrator.errors import DefinitionMissing, EngineStopped
from millrace_shared import subjects
from millrace_shared.blobs import Blobs
from millrace_shared.bus.dead import bury
from millrace_shared.bus.errors import WrongLastSequence
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.pull import Delivery
from millrace_shared.bus.streams import LEASE_DELIVERIES_MAX
from millrace_shared.codec import decode_inbox, encode
from millrace_shared.errors import BusUnavailable, MessageInvalid, MillraceError, RetryableError, ValueTooLarge
from millrace_shared.expressions.errors import BlobNeeded
from millrace_shared.expressions.evaluators import BoundedEvaluator
from millrace_shared.ids import partition_of
from millrace_shared.messages import (
    LOG_VERSION,
    ErrorInfo,
    Event,
    ExecutionFinished,
    InboxMessage,
    StartRequest,
    TimerFired,
    Transition,
)
from millrace_shared.values import BlobRef

log = logging.getLogger(__name__)

TICK_MESSAGES_MAX = 500
ORPHAN_DELIVERIES_MAX = 10
"""A message for an execution that never starts is looked at this often, then it is a dead letter."""
RETRY_DELAY_S = 0.5
BROKEN_DELAY_S = 30.0
"""An execution that this version cannot read is looked at this often: an upgrade may be on its way."""
FINISHED_REMEMBERED = 20_000
SERVICE = "orchestrator"


@dataclass(slots=True)
class _Turn:
    """One execution's part of a tick."""

    execution_id: str
    arrivals: list[tuple[Arrival, InboxMessage]] = field(default_factory=list)
    execution: Execution | None = None
    from_memory: bool = False
    after: Execution | None = None
    events: tuple[Event, ...] = ()
    payload: bytes = b""
    commands: list[Command] = field(default_factory=list)
    failed: MillraceError | None = None


class Engine:
    """Moves executions forward."""

    def __init__(
        self,
        journal: Journal,
        plans: Plans,
        publisher: Publisher,
        blobs: Blobs,
        evaluator: BoundedEvaluator,
        cache_max: int,
    ) -> None:
        self._journal = journal
        self._plans = plans
        self._publisher = publisher
        self._blobs = blobs
        self._evaluator = evaluator
        self._cache_max = cache_max
        self._arrivals: deque[Arrival] = deque()
        self._wake = asyncio.Event()
        self._executions: OrderedDict[str, Execution] = OrderedDict()
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._leases: dict[str, Delivery] = {}
        self._task: asyncio.Task[None] | None = None
        self.inbox: Inbox
        self.dispatcher: Dispatcher

    def arrive(self, arrival: Arrival) -> None:
        """Take in something to decide on."""
        self._arrivals.append(arrival)
        self._wake.set()

    def timer_fired(self, fired: TimerFired) -> None:
        """Take in a timer of our own."""
        self.arrive(Arrival(subjects.inbox(fired.execution_id), encode(fired)))

    def release(self, execution_id: str) -> None:
        """The execution has ended: it is active no longer."""
        lease = self._leases.pop(execution_id, None)
        if lease is not None:
            lease.ack()
        self._executions.pop(execution_id, None)
        self._finished[execution_id] = None
        if len(self._finished) > FINISHED_REMEMBERED:
            self._finished.popitem(last=False)

    def start(self) -> None:
        """Start to tick."""
        self._task = asyncio.create_task(self._run(), name="engine")

    async def stop(self) -> None:
        """Finish the tick in hand, and stop. What has not been decided is not acknowledged, so others get it."""
        if self._task is not None:
            task, self._task = self._task, None
            self._wake.set()
            await task

    async def check(self) -> None:
        """Raise when the engine does not tick."""
        if self._task is None or self._task.done():
            raise EngineStopped("the engine does not tick; the log says why")

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if self._task is None:
                return
            batch = [self._arrivals.popleft() for _ in range(min(len(self._arrivals), TICK_MESSAGES_MAX))]
            if not self._arrivals:
                self._wake.clear()
            started = time.monotonic()
            try:
                await self._tick(batch)
            except Exception:  # the engine must not die of one tick: nothing of it was acknowledged, so it comes again
                log.exception("a tick of %d messages failed; they will be delivered again", len(batch))
                self._executions.clear()
                await asyncio.sleep(RETRY_DELAY_S)
            metrics.tick_messages.observe(len(batch))
            metrics.tick_seconds.observe(time.monotonic() - started)

    async def _tick(self, batch: Sequence[Arrival]) -> None:
        try:
            turns = await self._sort(batch)
            await asyncio.gather(*(self._load(turn) for turn in turns if turn.execution is None))
            for turn in turns:
                await self._decide(turn)
            await self._commit([turn for turn in turns if turn.events and turn.failed is None])
            await self._perform(turns)
            for turn in turns:
                self._acknowledge(turn)
            self._trim()
        finally:
            for arrival in batch:
                if arrival.delivery is not None:
                    self.inbox.release(partition_of(subjects.execution_id_of(arrival.subject)))

    async def _sort(self, batch: Iterable[Arrival]) -> list[_Turn]:
        """Decode, bury what cannot be decoded, and group by execution in order of arrival."""
        turns: dict[str, _Turn] = {}
        for arrival in batch:
            execution_id = subjects.execution_id_of(arrival.subject)
            try:
                message = _decoded(arrival.payload, execution_id)
            except MessageInvalid as error:
                await self._bury(arrival, str(error))
                continue
            if execution_id in self._finished:
                if arrival.delivery is not None:
                    arrival.delivery.ack()
                continue
            turn = turns.get(execution_id)
            if turn is None:
                known = self._executions.get(execution_id)
                turn = turns[execution_id] = _Turn(execution_id, execution=known, from_memory=known is not None)
            if arrival.again:
                # Somebody else may have moved it on, and the fence guards appends only: what is performed again must
                # follow from the log, not from a memory that may be stale.
                turn.execution, turn.from_memory = None, False
            turn.arrivals.append((arrival, message))
        return list(turns.values())

    async def _load(self, turn: _Turn) -> None:
        """Find the execution's state: in its log, or, for a start that comes for the first time, nowhere."""
        _, first = turn.arrivals[0]
        try:
            if isinstance(first, StartRequest) and not any(one.again for one, _ in turn.arrivals):
                turn.execution = Execution(await self._plans.get(first.definition))
                return
            turn.execution = await self._journal.load(turn.execution_id)
            start = next((message for _, message in turn.arrivals if isinstance(message, StartRequest)), None)
            if turn.execution is None and start is not None:
                turn.execution = Execution(await self._plans.get(start.definition))
        except MillraceError as error:
            turn.failed = error

    async def _decide(self, turn: _Turn) -> None:
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
            log.exception("execution %s met a bug of the state machine and is ended", turn.execution_id)
            await self._abandon(turn, turn.execution, ErrorInfo("internal", "internal", str(error)))
        except MillraceError as error:
            turn.failed = error

    async def _decide_with_values(self, turn: _Turn, execution: Execution) -> None:
        loaded: dict[BlobRef, Any] = {}
        while True:
            try:
                state = execution.state
                events: list[Event] = []
                for _, message in turn.arrivals:
                    decision = decide(
                        execution.plan, state, message, time.time(), self._evaluator.evaluate, loaded, execution.memo
                    )
                    state = decision.state
                    events += decision.events
                await self._draft(turn, execution, state, tuple(events))
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
        self, turn: _Turn, execution: Execution, state: ExecutionState | None, events: tuple[Event, ...]
    ) -> None:
        """Make the transition and the commands of `events`; without events, maybe the commands that are outstanding."""
        if state is None:
            return
        if not events:
            turn.after = execution
            if any(arrival.again for arrival, _ in turn.arrivals):
                turn.commands = list(outstanding(execution.plan, state))
                metrics.reemitted.inc(len(turn.commands))
            return
        now = time.time()
        transition = Transition(LOG_VERSION, turn.execution_id, state.version + 1, now, events)
        fitted, turn.payload = await fit(self._blobs, state.request.workspace, transition)
        if fitted is not transition:  # values became references, and the state must say what the log says
            state = execution.state
            for event in fitted.events:
                state = evolve(execution.plan, state, event, now)
        state = advance(state, transition.version)
        turn.events = fitted.events
        turn.after = Execution(execution.plan, state, execution.sequence, execution.memo)
        turn.commands = commands(execution.plan, state, fitted.events)

    async def _abandon(self, turn: _Turn, execution: Execution, error: ErrorInfo) -> None:
        start = next((message for _, message in turn.arrivals if isinstance(message, StartRequest)), None)
        request = execution.state.request if execution.state is not None else start
        if request is None:
            return
        decision = abandon(execution.plan, execution.state, request, time.time(), error)
        await self._draft(turn, execution, decision.state, decision.events)

    def _decide_stillborn(self, turn: _Turn, error: DefinitionMissing) -> None:
        start = next((message for _, message in turn.arrivals if isinstance(message, StartRequest)), None)
        if start is None:
            return
        turn.failed = None
        turn.events = stillborn(start, time.time(), ErrorInfo("definition_missing", "internal", str(error)))
        turn.payload = encode(Transition(LOG_VERSION, turn.execution_id, 1, time.time(), turn.events))
        turn.commands = [Release(turn.execution_id)]

    async def _commit(self, turns: Sequence[_Turn]) -> None:
        appends = [
            Append(turn.execution_id, turn.execution.sequence if turn.execution else 0, turn.payload) for turn in turns
        ]
        for turn, result in zip(turns, await self._journal.append(appends), strict=True):
            if isinstance(result, MillraceError):
                turn.failed = result
                if isinstance(result, WrongLastSequence):
                    metrics.fences_lost.inc()
                continue
            metrics.transitions.inc()
            for event in turn.events:
                metrics.events[type(event)].inc()
                if isinstance(event, ExecutionFinished):
                    metrics.finished[event.status].inc()
            if turn.after is not None:
                turn.after = Execution(turn.after.plan, turn.after.state, result, turn.after.memo)

    async def _perform(self, turns: Sequence[_Turn]) -> None:
        committed = [turn for turn in turns if turn.failed is None]
        for turn in committed:
            if turn.after is not None:
                self._executions[turn.execution_id] = turn.after
                self._executions.move_to_end(turn.execution_id)
            for arrival, message in turn.arrivals:
                if isinstance(message, StartRequest) and arrival.delivery is not None:
                    await self._hold(turn.execution_id, arrival.delivery)
        try:
            await self.dispatcher.perform(command for turn in committed for command in turn.commands)
        except MillraceError as error:
            log.warning("commands of %d executions not performed, they will be: %s", len(committed), error)
            for turn in committed:
                turn.failed = turn.failed or error

    async def _hold(self, execution_id: str, lease: Delivery) -> None:
        """Keep a start message unacknowledged until the execution ends; put a new one in place of an old one."""
        if lease.delivered_count >= LEASE_DELIVERIES_MAX and execution_id not in self._finished:
            try:
                await self._publisher.publish(Outgoing(lease.subject, lease.payload))
            except BusUnavailable as error:
                log.warning("the lease on %s is renewed later: %s", execution_id, error)
            else:
                lease.ack()
                return
        self._leases[execution_id] = lease

    def _acknowledge(self, turn: _Turn) -> None:
        if turn.failed is not None:
            self._give_back(turn, turn.failed)
            return
        for arrival, message in turn.arrivals:
            if turn.after is None and not turn.events:
                self._orphan(arrival)
            elif arrival.delivery is not None and not isinstance(message, StartRequest):
                arrival.delivery.ack()

    def _give_back(self, turn: _Turn, error: MillraceError) -> None:
        """Have everything come again: at once when the fence was lost, later when something does not answer."""
        self._executions.pop(turn.execution_id, None)
        if isinstance(error, WrongLastSequence):
            delay_s = 0.0
        elif isinstance(error, RetryableError):
            delay_s = RETRY_DELAY_S
        else:
            delay_s = BROKEN_DELAY_S
            log.error("execution %s cannot go on: %s", turn.execution_id, error)
        for arrival, _ in turn.arrivals:
            if arrival.delivery is not None:
                arrival.delivery.nak(delay_s)
            else:
                again = Arrival(arrival.subject, arrival.payload, again=True)
                asyncio.get_running_loop().call_later(delay_s, self.arrive, again)

    def _orphan(self, arrival: Arrival) -> None:
        """There is no execution (yet): a cancel may overtake its start, so look again a few times."""
        if arrival.delivery is None:
            return
        if arrival.delivery.delivered_count < ORPHAN_DELIVERIES_MAX:
            arrival.delivery.nak(RETRY_DELAY_S)
        else:
            asyncio.get_running_loop().create_task(self._bury(arrival, "there is no such execution"))

    async def _bury(self, arrival: Arrival, reason: str) -> None:
        if arrival.delivery is not None:
            metrics.dead_letters.inc()
            await bury(self._publisher, arrival.delivery, reason, SERVICE)

    def _trim(self) -> None:
        while len(self._executions) > self._cache_max:
            self._executions.popitem(last=False)
        metrics.cached_executions.set(len(self._executions))


def _decoded(payload: bytes, execution_id: str) -> InboxMessage:
    message = decode_inbox(payload)
    if message.execution_id != execution_id:
        raise MessageInvalid(f"it is for execution {message.execution_id}, and came to the inbox of {execution_id}")
    return message


def _workspace(turn: _Turn, execution: Execution) -> str:
    if execution.state is not None:
        return execution.state.request.workspace
    start = next(message for _, message in turn.arrivals if isinstance(message, StartRequest))
    return start.workspace
