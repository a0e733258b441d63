"""The worker: slots that take work, perform it, and hand over results; nothing is acknowledged before it is stored.

A slot is one long-lived task. It awaits executors directly, so a function that does not suspend costs no task and no
turn of the loop. It gives its place back when the attempt has been performed and goes on, while the result waits to
be stored, unless too many do (`RESULTS_WAITING_MAX`): a bus that stores nothing stops the pulling.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import cast

import msgspec

from millrace_agent_runner import metrics
from millrace_agent_runner.adapters import control
from millrace_agent_runner.adapters.doubts import LOOK_AGAIN_S, Doubts
from millrace_agent_runner.adapters.facts import Facts
from millrace_agent_runner.adapters.intake import Intake, Taken
from millrace_agent_runner.adapters.jobs import Job, Jobs
from millrace_agent_runner.adapters.outbox import Outbox
from millrace_agent_runner.adapters.pulse import Pulse
from millrace_agent_runner.adapters.repeats import Repeats
from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.perform import Performer
from millrace_agent_runner.domain.poison import result_for_poison
from millrace_agent_runner.errors import TakenOver
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.dead import bury
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.streams import WORK_DELIVERIES_MAX
from millrace_shared.codec import decode_work, encode
from millrace_shared.errors import BusUnavailable, MessageInvalid, MillraceError
from millrace_shared.ids import attempt_key
from millrace_shared.messages import NOTHING, RunStep, StepResult, StepStarted

log = logging.getLogger(__name__)

RESULTS_WAITING_MAX = 2_000
RESULTS_WAITING_BYTES_MAX = 32 * 1024 * 1024
RESULTS_DRAIN_S = 10.0
SERVICE = "agent-runner"


class Worker:
    """Performs the work of one process.

    Args:
        connection: the bus.
        publisher: started, on the same connection.
        performer: how attempts are performed.
        facts: where starts are announced.
        slots: most attempts at the same time.
        grace_s: how long attempts may go on after `stop`.
        runner: the name of this process.
    """

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        performer: Performer,
        facts: Facts,
        *,
        slots: int,
        grace_s: float,
        runner: str,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._performer = performer
        self._facts = facts
        self._grace_s = grace_s
        self._runner = runner
        self._slots = slots
        self._intake = Intake(connection, slots, self._deliver)
        self._repeats = Repeats(connection)
        self._doubts = Doubts(self._repeats, runner)
        self._jobs = Jobs(self._announce, lambda job: self._doubts.ask([job]))
        self._pulse = Pulse(connection)
        self._results = Outbox(publisher, "results")
        self._queue: deque[Job] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._held: deque[Taken] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._performing = 0
        self._stopped = False
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def start(self) -> None:
        """Listen for cancels, and begin to pull."""
        metrics.observe_process(self._slots, lambda: self._performing, lambda: self._results.waiting)
        self._jobs.start()
        self._tasks = [asyncio.create_task(self._slot(), name=f"slot {number}") for number in range(self._slots)]
        await self._connection.listen(subjects.cancel_control("*"), self._on_cancel)
        await self._connection.listen(subjects.taken_control("*"), self._on_taken)
        self._connection.on_reconnect.append(self._ask_about_all)
        self._repeats.start()
        self._pulse.start()
        await self._intake.start()

    async def stop(self) -> None:
        """Drain: pull no more, give back what has not started, let the rest end, store the results.

        Attempts that are still running after the grace are stopped and given back too: another runner starts them
        anew, which costs an attempt nothing but time. Does nothing the second time.
        """
        if self._stopped:
            return
        self._stopped = True
        with contextlib.suppress(ValueError):
            self._connection.on_reconnect.remove(self._ask_about_all)
        self._repeats.stop()
        await self._pulse.stop()
        await self._intake.stop()
        self._give_back_queued()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                await self._quiet.wait()
        for job in self._jobs:
            job.stop("drain")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._quiet.wait()
        for task in self._tasks:
            task.cancel()
        if not await self._results.drain(RESULTS_DRAIN_S):
            log.error("%d results are not stored; their attempts will be performed again", self._results.waiting)
        await self._facts.drain(RESULTS_DRAIN_S)
        await self._jobs.stop()
        self._doubts.stop()

    @property
    def committed(self) -> int:
        """Slots that are taken or asked for."""
        return self._intake.committed

    # Work comes in.

    def _deliver(self, taken: Taken) -> None:
        if self._stopped:  # it was on its way when the pulling ended
            taken.delivery.nak()
            self._intake.release(taken)
            return
        known = self._jobs.get(taken.delivery.subject)
        if known is not None:
            # It is here already: the server lost patience while the bus was away. The newest delivery is the one that
            # can be acknowledged; the attempt is not performed twice.
            metrics.adopted.inc()
            known.taken = Taken(taken.delivery, known.taken.source)
            self._intake.release(taken)
            return
        job = Job(taken, stale_since=self._pulse.stopped_at())
        self._jobs.add(job)
        self._queue.append(job)
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    async def _next(self) -> Job:
        while not self._queue:
            waiter = asyncio.get_running_loop().create_future()
            self._idle.append(waiter)
            await waiter
        return self._queue.popleft()

    async def _slot(self) -> None:
        while True:
            job = await self._next()
            self._performing += 1
            self._quiet.clear()
            try:
                await self._attend(job)
            except Exception:  # a defect of the worker itself: the message comes again when its wait is over
                log.exception("an attempt could not be attended to: %s", job.taken.delivery.subject)
                self._jobs.remove(job)
                self._intake.release(job.taken)
            finally:
                self._performing -= 1
                if self._performing == 0 and not self._queue:
                    self._quiet.set()

    # One attempt, from top to bottom.

    async def _attend(self, job: Job) -> None:
        job.started_at = time.time()
        delivery = job.taken.delivery
        try:
            job.step = decode_work(delivery.payload)
        except MessageInvalid as error:
            await self._bury(job, f"the work message is invalid: {error}")
            return
        if delivery.delivered_count >= WORK_DELIVERIES_MAX:
            await self._bury(job, f"delivered {WORK_DELIVERIES_MAX} times without a result: it may kill its runners")
            return
        if await self._is_done_with(job, job.step):
            return
        if delivery.delivered_count > 1:
            self._tell_taken(job, job.step)
        result = await self._perform(job)
        if result is None:
            if job.stopped == "lost":
                self._forget(job)
            else:
                self._give_back(job)
            return
        metrics.attempt_ended(job.step.kind, result)
        self._hand_over(job, result)

    async def _is_done_with(self, job: Job, step: RunStep) -> bool:
        """Look an attempt up that may have been performed already, or is being. Returns whether there is nothing to do.

        It waits for an answer, since a message that is given back comes again at once, and only so often.
        """
        if not self._may_be_repeat(job):
            return False
        is_over = is_elsewhere = False
        while True:
            try:
                is_over = await self._repeats.is_over(step)
                if not is_over and job.stale_since is not None:
                    is_elsewhere = await self._repeats.is_elsewhere(step, self._runner, job.stale_since)
                break
            except BusUnavailable as error:
                log.warning("%s may be a repeat, and cannot be looked up now: %s", job.taken.delivery.subject, error)
                if job.is_stopped:
                    break
                await asyncio.sleep(LOOK_AGAIN_S)
        if is_over:
            self._drop(job)
        elif is_elsewhere:
            self._forget(job)
        job.started_at = time.time()
        return is_over or is_elsewhere

    async def _perform(self, job: Job) -> StepResult | None:
        """Perform the attempt within its deadline. None: it was stopped, and not on its own account."""
        assert job.step is not None
        attempt = job.attempt = self._performer.open(job.step, job.started_at, resumes=self._may_be_repeat(job))
        if job.is_stopped:
            return self._stopped_result(job, attempt)
        if attempt.ends_at <= job.started_at:
            return self._performer.timed_out(attempt, job.started_at)
        job.task = asyncio.current_task()
        output, raised = NOTHING, cast("BaseException | None", None)
        try:
            output = await self._performer.perform(attempt)
        except asyncio.CancelledError as error:
            if job.stopped is None and self._is_cancelled(job):
                raise
            raised = error
        except TakenOver as error:
            log.warning("gave %s up: %s", job.taken.delivery.subject, error)
            job.stopped = job.stopped or "lost"
        except Exception as error:  # noqa: BLE001  whatever it is, it is the attempt's outcome
            raised = error
        finally:
            task, job.task = job.task, None
            if job.stopped is not None and task is not None:
                while task.cancelling():
                    task.uncancel()
        if job.stopped is not None:
            return self._stopped_result(job, attempt)
        if raised is not None:
            return self._performer.failed(attempt, raised, job.started_at)
        return self._performer.succeeded(attempt, output, job.started_at)

    def _may_be_repeat(self, job: Job) -> bool:
        assert job.step is not None
        return job.stale_since is not None or self._repeats.may_be(job.taken.delivery, job.step)

    def _stopped_result(self, job: Job, attempt: Attempt) -> StepResult | None:
        if job.stopped in {"drain", "lost"}:
            return None
        outcome = self._performer.cancelled if job.stopped == "cancelled" else self._performer.timed_out
        return outcome(attempt, job.started_at)

    @staticmethod
    def _is_cancelled(job: Job) -> bool:
        """Tell the end of this process from a step whose own code raised `CancelledError`."""
        return job.task is not None and job.task.cancelling() > 0

    # Results go out.

    def _hand_over(self, job: Job, result: StepResult) -> None:
        """Store the result, and only then acknowledge the work."""

        def settled(error: MillraceError | None) -> None:
            # A result that the bus will never take is left to be delivered again, until it goes to DEAD.
            self._jobs.remove(job)
            if error is None:
                job.taken.delivery.ack()
            if self._held:
                self._intake.release(self._held.popleft())

        self._results.put(Outgoing(subjects.inbox(result.execution_id), encode(result)), settled)
        if self._results.waiting > RESULTS_WAITING_MAX or self._results.size_bytes > RESULTS_WAITING_BYTES_MAX:
            self._held.append(job.taken)
        else:
            self._intake.release(job.taken)

    def _give_back(self, job: Job) -> None:
        """Let another runner have it, now."""
        self._jobs.remove(job)
        job.taken.delivery.nak()
        self._intake.release(job.taken)

    def _drop(self, job: Job) -> None:
        """It is over: only its acknowledgement was lost."""
        metrics.repeats.inc()
        self._jobs.remove(job)
        job.taken.delivery.ack()
        self._intake.release(job.taken)

    def _forget(self, job: Job) -> None:
        """Another runner has it; should that one be gone as well, the server delivers it again by itself."""
        metrics.lost.inc()
        self._jobs.remove(job)
        self._intake.release(job.taken)

    def _give_back_queued(self) -> None:
        while self._queue:
            self._give_back(self._queue.popleft())

    async def _bury(self, job: Job, reason: str) -> None:
        """Tell the execution, if the message says which, then move the message to DEAD."""
        delivery = job.taken.delivery
        result = result_for_poison(delivery.subject, reason, job.started_at, self._runner)
        if result is not None:
            stored = asyncio.get_running_loop().create_future()
            self._results.put(
                Outgoing(subjects.inbox(result.execution_id), encode(result)),
                lambda error: None if stored.done() else stored.set_result(error),
            )
            await stored
        metrics.poison.inc()
        await bury(self._publisher, delivery, reason, SERVICE)
        self._jobs.remove(job)
        self._intake.release(job.taken)

    # What others are told, and tell.

    def _announce(self, job: Job) -> None:
        assert job.step is not None
        step = job.step
        self._facts.step_started(
            StepStarted(
                execution_id=step.execution_id,
                step=step.step,
                attempt=step.attempt,
                at=job.started_at,
                item=step.item,
                runner=self._runner,
            )
        )

    def _ask_about_all(self) -> None:
        self._doubts.ask(self._jobs)

    def _tell_taken(self, job: Job, step: RunStep) -> None:
        """Have a runner that was silent, and may be back, stop what is performed here now."""
        taken = control.Taken(attempt_key(step.step, step.item, step.attempt), job.taken.delivery.delivered_count)
        self._connection.send(subjects.taken_control(step.execution_id), encode(taken))

    def _on_taken(self, subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        try:
            taken = control.decode_taken(payload)
        except msgspec.DecodeError as error:
            log.warning("what came on %s is not what it should be: %s", subject, error)
            return
        execution_id = subject.rsplit(".", 1)[1]
        if self._jobs.stop_taken(execution_id, taken.attempt, taken.delivery):
            log.warning("gave %s of execution %s up: another runner has it", taken.attempt, execution_id)

    def _on_cancel(self, subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        keys: frozenset[str] | None = None
        if payload:
            try:
                keys = control.decode_cancel(payload).attempts
            except msgspec.DecodeError as error:
                log.warning("a cancel on %s is not one: %s", subject, error)
                return
        execution_id = subject.rsplit(".", 1)[1]
        stopped = self._jobs.stop_execution(execution_id, keys)
        if stopped:
            log.info("stopped %d attempts of execution %s, which was cancelled", stopped, execution_id)
