"""The engine: takes what has arrived, decides, commits, and has done what follows. One tick after the other.

    intake ─► decode ─► group by execution ─► load ─► decide ─► commit (one fsync) ─► perform commands ─► acknowledge

A tick takes much of what has arrived, so under load the transitions of many executions share a commit, and a single
execution waits for nobody. Whatever fails on the way is not acknowledged and comes again; the state machine makes that
harmless, and a message that comes again also has its execution's outstanding commands performed again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from millrace_orchestrator import metrics
from millrace_orchestrator.adapters.dispatcher import Dispatcher
from millrace_orchestrator.adapters.inbox import Arrival, Inbox, is_start
from millrace_orchestrator.adapters.journal import Append, Execution, Journal
from millrace_orchestrator.adapters.snapshots import Snapshots
from millrace_orchestrator.adapters.timers import ShortTimers
from millrace_orchestrator.decider import Decider
from millrace_orchestrator.domain.commands import Arm
from millrace_orchestrator.domain.fairness import Crowds
from millrace_orchestrator.dormitory import Dormitory
from millrace_orchestrator.errors import EngineStopped
from millrace_orchestrator.intake import Intake
from millrace_orchestrator.leases import Leases
from millrace_orchestrator.turn import Turn
from millrace_shared import subjects
from millrace_shared.bus.dead import bury
from millrace_shared.bus.errors import WrongLastSequence
from millrace_shared.bus.publisher import Publisher
from millrace_shared.bus.pull import Delivery
from millrace_shared.codec import decode_inbox, encode
from millrace_shared.errors import MessageInvalid, MillraceError, RetryableError
from millrace_shared.ids import partition_of
from millrace_shared.messages import InboxMessage, StartRequest, TimerFired

log = logging.getLogger(__name__)

ORPHAN_DELIVERIES_MAX = 10
"""A message for an execution that never starts is looked at this often, then it is a dead letter."""
RETRY_DELAY_S = 0.5
BROKEN_DELAY_S = 30.0
"""An execution that cannot be read is looked at this often: somebody may put right what is wrong."""
UNREADABLE_DELIVERIES_MAX = 5
"""Then its messages are dead letters. A log of a later version is not meant: it is waited for."""
FINISHED_REMEMBERED = 20_000
SERVICE = "orchestrator"


class Engine:
    """Moves executions forward."""

    def __init__(
        self,
        journal: Journal,
        decider: Decider,
        publisher: Publisher,
        leases: Leases,
        dormitory: Dormitory,
        snapshots: Snapshots,
        crowds: Crowds,
        cache_max: int,
    ) -> None:
        self._journal = journal
        self._decider = decider
        self._publisher = publisher
        self._leases = leases
        self._dormitory = dormitory
        self._snapshots = snapshots
        self._crowds = crowds
        self._cache_max = cache_max
        self._intake = Intake()
        self._executions: OrderedDict[str, Execution] = OrderedDict()
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self.inbox: Inbox
        self.dispatcher: Dispatcher
        self.timers: ShortTimers
        self.retention_s = 0.0

    def arrive(self, arrival: Arrival, *, under_way: bool = False) -> None:
        """Take in something to decide on. `under_way`: a start whose execution is known to have begun."""
        if is_start(arrival.subject):
            under_way = under_way or subjects.execution_id_of(arrival.subject) in self._executions
            self._intake.put_start(arrival, under_way=under_way)
        else:
            self._intake.put(arrival)

    def lose(self, partition: int) -> None:
        """Forget what was delivered of a partition, which is another's now, and what is known of its executions.

        Believing otherwise would be harmless, since the fence of the log decides, but it would be work in vain.
        """
        self.inbox.release(partition, self._intake.forget(partition))
        self._leases.lose(partition)
        for execution_id in [one for one in self._executions if partition_of(one) == partition]:
            del self._executions[execution_id]
        self._crowds.lose(partition)
        self.timers.lose(partition)

    def timer_fired(self, fired: TimerFired) -> None:
        """Take in a timer of our own."""
        self.arrive(Arrival(subjects.inbox(fired.execution_id), encode(fired)))

    def release(self, execution_id: str) -> None:
        """The execution has ended: it is active no longer."""
        self._leases.release(execution_id)
        self._executions.pop(execution_id, None)
        self._crowds.forget(execution_id)
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
            self._intake.wake()
            await task

    async def check(self) -> None:
        """Raise when the engine does not tick."""
        if self._task is None or self._task.done():
            raise EngineStopped("the engine does not tick; the log says why")

    async def _run(self) -> None:
        while True:
            await self._intake.wait()
            if self._task is None:
                return
            batch = self._intake.batch()
            started = time.monotonic()
            try:
                await self._tick(batch)
            except Exception:  # the engine must not die of one tick: nothing of it was acknowledged, so it comes again
                log.exception("a tick of %d messages failed; they will be delivered again", len(batch))
                self._executions.clear()
                self._take_again(batch, RETRY_DELAY_S)
                await asyncio.sleep(RETRY_DELAY_S)
            metrics.tick_messages.observe(len(batch))
            metrics.tick_seconds.observe(time.monotonic() - started)

    async def _tick(self, batch: Sequence[Arrival]) -> None:
        try:
            turns = await self._sort(batch)
            await self._look_for_logs(turns)
            unknown = [turn for turn in turns if turn.execution is None and not self._decider.begin(turn)]
            if unknown:
                await asyncio.gather(*(self._decider.load(turn) for turn in unknown))
            for turn in turns:
                await self._decider.decide(turn)
            await self._commit([turn for turn in turns if turn.events and turn.failed is None])
            await self._perform(turns)
            for turn in turns:
                self._acknowledge(turn)
            self._trim()
        finally:
            for arrival in batch:
                if arrival.delivery is not None and not is_start(arrival.subject):
                    self.inbox.release(subjects.partition_in(arrival.subject))

    async def _look_for_logs(self, turns: list[Turn]) -> None:
        """Find out at once which of the starts that came again have no log: there may be thousands after a takeover.

        One that is much younger than its request stands for a name that was used before. Without a log its execution
        ended so long ago that the log was removed, and it must not run a second time.
        """
        starts = [turn for turn in turns if turn.execution is None and turn.start is not None]
        late = [turn for turn in starts if self._is_much_later(turn)]
        again = [turn for turn in starts if turn.is_again]
        if not late and not again:
            return
        begun = await self._journal.begun(list({turn.execution_id for turn in (*late, *again)}))
        for turn in again:
            turn.is_fresh = turn.execution_id not in begun
        for turn in late:
            if turn.execution_id not in begun:
                metrics.starts_expired.inc()
                turns.remove(turn)
                for arrival, _ in turn.arrivals:
                    if arrival.delivery is not None:
                        arrival.delivery.ack()

    def _is_much_later(self, turn: Turn) -> bool:
        """Whether a start of a name was stored long after its request. What a scan found is judged when delivered."""
        start = turn.start
        if not self.retention_s or start is None or start.execution_name is None:
            return False
        deliveries = [one.delivery for one, message in turn.arrivals if message is start]
        stored_at = max(time.time() if one is None else one.stored_at for one in deliveries)
        return stored_at - start.requested_at >= self.retention_s

    async def _sort(self, batch: Iterable[Arrival]) -> list[Turn]:
        """Decode, bury what cannot be decoded, and group by execution in order of arrival."""
        turns: dict[str, Turn] = {}
        for arrival in batch:
            execution_id = subjects.execution_id_of(arrival.subject)
            try:
                message = _decoded(arrival.payload, execution_id)
            except MessageInvalid as error:
                await self._bury(arrival, str(error))
                continue
            if arrival.delivery is not None and isinstance(message, TimerFired):
                # The server's schedules are for those who sleep. Somebody may have woken this one by a timer in memory,
                # which is not delivered again, and have got no further than the commit.
                arrival = replace(arrival, again=True)  # noqa: PLW2901
            if execution_id in self._finished:
                if arrival.delivery is not None:
                    arrival.delivery.ack()
                continue
            turn = turns.get(execution_id)
            if turn is None:
                known = self._executions.get(execution_id)
                turn = turns[execution_id] = Turn(execution_id, execution=known, from_memory=known is not None)
            if arrival.again:
                # Somebody else may have moved it on, and the fence guards appends only: what is performed again must
                # follow from the log, not from a memory that may be stale.
                turn.execution, turn.from_memory = None, False
            turn.add(arrival, message)
        return list(turns.values())

    async def _commit(self, turns: Sequence[Turn]) -> None:
        appends = [
            Append(turn.execution_id, turn.execution.sequence if turn.execution else 0, turn.payload) for turn in turns
        ]
        for turn, result in zip(turns, await self._journal.append(appends), strict=True):
            if isinstance(result, MillraceError):
                turn.failed = result
                if isinstance(result, WrongLastSequence):
                    metrics.fences_lost.inc()
                continue
            after = turn.after
            if after is not None:
                turn.after = Execution(after.plan, after.state, result, after.memo, after.changed_at)
                if after.state is not None:
                    self._snapshots.consider(after.state, result, after.changed_at)
        metrics.count_committed([turn.events for turn in turns if turn.failed is None])

    async def _perform(self, turns: Sequence[Turn]) -> None:
        await self._dormitory.wake([turn for turn in turns if turn.failed is None])
        committed = [turn for turn in turns if turn.failed is None]
        tired = [turn for turn in committed if self._dormitory.is_for(turn)]
        asleep = {turn.execution_id for turn in tired}
        for turn in committed:
            if turn.execution_id in asleep:
                continue
            if turn.after is not None:
                self._remember(turn.execution_id, turn.after)
            if turn.start is not None:
                await self._hold_leases(turn)
        try:
            await self.dispatcher.perform(
                command
                for turn in committed
                for command in turn.commands
                if not (isinstance(command, Arm) and turn.execution_id in asleep)
            )
        except MillraceError as error:
            log.warning("commands of %d executions not performed, they will be: %s", len(committed), error)
            for turn in committed:
                turn.failed = turn.failed or error
            return
        await self._dormitory.put_to_sleep(tired)
        for execution_id in asleep:
            self._forget(execution_id)

    async def _hold_leases(self, turn: Turn) -> None:
        ends = turn.after is None or turn.after.state is None or turn.after.state.finished
        for arrival, message in turn.arrivals:
            if isinstance(message, StartRequest) and arrival.delivery is not None:
                await self._leases.hold(turn.execution_id, arrival.delivery, ends=ends)

    def _forget(self, execution_id: str) -> None:
        self._executions.pop(execution_id, None)
        self._crowds.forget(execution_id)
        self.timers.forget(execution_id)

    def _remember(self, execution_id: str, execution: Execution) -> None:
        self._executions[execution_id] = execution
        self._executions.move_to_end(execution_id)
        if execution.state is not None:
            self._crowds.note(execution_id, execution.state.request.workspace, execution.state.running)

    def _acknowledge(self, turn: Turn) -> None:
        if turn.failed is not None:
            self._give_back(turn, turn.failed)
            return
        for arrival, message in turn.arrivals:
            if turn.after is None and not turn.events:
                self._orphan(arrival)
            elif arrival.delivery is not None and not isinstance(message, StartRequest):
                arrival.delivery.ack()

    def _give_back(self, turn: Turn, error: MillraceError) -> None:
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
            if arrival.delivery is None:
                continue
            if delay_s == BROKEN_DELAY_S and arrival.delivery.delivered_count >= UNREADABLE_DELIVERIES_MAX:
                asyncio.get_running_loop().create_task(self._bury(arrival, str(error)))
            else:
                _nak_after(arrival.delivery, delay_s)
        self._take_again((arrival for arrival, _ in turn.arrivals), delay_s)

    def _take_again(self, arrivals: Iterable[Arrival], delay_s: float) -> None:
        """Have what nobody will deliver again (our own timers, and what a scan found) arrive again."""
        for arrival in arrivals:
            if arrival.delivery is None:
                again = Arrival(arrival.subject, arrival.payload, again=True)
                asyncio.get_running_loop().call_later(delay_s, self.arrive, again)

    def _orphan(self, arrival: Arrival) -> None:
        """There is no execution (yet): a cancel may overtake its start, so look again a few times."""
        if arrival.delivery is None:
            return
        if arrival.delivery.delivered_count < ORPHAN_DELIVERIES_MAX:
            _nak_after(arrival.delivery, RETRY_DELAY_S)
        else:
            asyncio.get_running_loop().create_task(self._bury_orphan(arrival, arrival.delivery))

    async def _bury_orphan(self, arrival: Arrival, delivery: Delivery) -> None:
        """Bury what is for no execution; what is for one that has been accepted waits until that is begun."""
        try:
            is_accepted = await self._journal.is_accepted(subjects.execution_id_of(arrival.subject))
        except MillraceError:
            is_accepted = True  # it cannot be told now
        if is_accepted:
            _nak_after(delivery, BROKEN_DELAY_S)
        else:
            await self._bury(arrival, "there is no such execution")

    async def _bury(self, arrival: Arrival, reason: str) -> None:
        if arrival.delivery is not None:
            metrics.dead_letters.inc()
            await bury(self._publisher, arrival.delivery, reason, SERVICE)

    def _trim(self) -> None:
        while len(self._executions) > self._cache_max:
            self._executions.popitem(last=False)
        metrics.cached_executions.set(len(self._executions))


def _nak_after(delivery: Delivery, delay_s: float) -> None:
    """Have a message come again after `delay_s`.

    We wait, not the server: it adds the delay that a NAK asks for to the consumer's backoff, so that the third delivery
    would come after two minutes. Should this process end before, the backoff brings the message.
    """
    asyncio.get_running_loop().call_later(delay_s, delivery.nak)


def _decoded(payload: bytes, execution_id: str) -> InboxMessage:
    message = decode_inbox(payload)
    if message.execution_id != execution_id:
        raise MessageInvalid(f"it is for execution {message.execution_id}, and came to the inbox of {execution_id}")
    return message
