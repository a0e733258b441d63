"""Models of an orchestrator and a runner: the effects of the real ones in their order, any of which may be the last.

`Faults` decides where an actor crashes. A crash loses the actor's memory and whatever it had not yet done; what it did
stays done.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from faults import Faults
from gates import Gatekeeper
from invariants import check_dropped
from world import FenceLost, Stored, World

from millrace_orchestrator.domain.commands import Abort, Arm, Begin, Command, Release, Run, Tell, commands, outstanding
from millrace_orchestrator.domain.decide import decide
from millrace_orchestrator.domain.dormancy import Rhythm, falls_asleep, may_be_asleep
from millrace_orchestrator.domain.evolve import advance, fold
from millrace_orchestrator.domain.gates import Enter, Leave
from millrace_orchestrator.domain.plan import Plan
from millrace_orchestrator.domain.state import ExecutionState
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.ids import attempt_key
from millrace_shared.messages import (
    LOG_VERSION,
    Deferral,
    ErrorInfo,
    Event,
    InboxMessage,
    RunStep,
    StartRequest,
    StepResult,
    TimerFired,
    Transition,
)
from millrace_shared.values import Payload


def no_cel(*_: Any) -> Any:
    """The simulated workflows need none."""
    raise AssertionError("a simulated workflow used CEL")


LEASE_AGAIN_S = 60.0
"""A lease comes again earlier than this."""
STOPPED = 0.02
"""How often an orchestrator is stopped between a commit and what follows from it, while things fail."""
STOPPED_S = (0.5, 5.0, 40.0)
DEFERRED = 0.1
"""How often an attempt gives its place back."""
DEFERRED_S = (0.0, 1.0, 8.0, 60.0)
RHYTHM = Rhythm(horizon_s=4.0, asleep_after_s=3.0, awake_after_s=1.0)


@dataclass
class Orchestrator:
    """Load, decide, append, perform, acknowledge. Its cache may be stale: the fence finds out."""

    world: World
    faults: Faults
    cache: dict[str, tuple[ExecutionState, int]] = field(default_factory=dict)
    memos: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    timers: list[tuple[float, TimerFired]] = field(default_factory=list)
    leases: dict[str, set[int]] = field(default_factory=dict)
    late: list[tuple[float, set[int]]] = field(default_factory=list)
    stopped: list[tuple[float, Command]] = field(default_factory=list)
    trusts_memory: bool = False
    never_wakes: bool = False
    gatekeeper: Gatekeeper = field(init=False)

    def __post_init__(self) -> None:
        """Keep the gates as well."""
        self.gatekeeper = Gatekeeper(self.world, self.faults)

    def forget(self) -> None:
        """Be a new process."""
        self.cache.clear()
        self.memos.clear()
        self.timers.clear()
        self.leases.clear()
        self.stopped.clear()
        self.gatekeeper.timers.clear()

    def take_over(self) -> None:
        """Perform again what every active execution waits for."""
        for request in self.world.active():
            self.handle(request, None, again=True)

    def step(self) -> bool:
        """Handle one message or one timer of its own; tell whether there was any."""
        for entry in [entry for entry in self.late if entry[0] <= self.world.now]:
            self.late.remove(entry)
            self._acknowledge(entry[1])
        for going_on in [entry for entry in self.stopped if entry[0] <= self.world.now]:
            self.stopped.remove(going_on)
            self.perform(going_on[1])
            self.faults.maybe()
        due = [entry for entry in self.timers if entry[0] <= self.world.now]
        if due:
            self.timers.remove(due[0])
            self.handle(due[0][1], None, again=False)
            return True
        if self.gatekeeper.expire():
            return True
        received = self.world.receive()
        if received is None:
            return False
        stored, message = received
        self.handle(message, stored, again=stored.deliveries > 1 or isinstance(message, TimerFired))
        return True

    def handle(self, message: InboxMessage, stored: Stored | None, *, again: bool) -> None:
        """Do what the engine does with one message."""
        world, execution_id = self.world, message.execution_id
        if execution_id not in world.requests:  # its start is still to come
            return
        state, length = self._state(message, again=again)
        changed_at = world.changed_at(execution_id, length)
        plan = world.plan(execution_id)
        memo = self.memos.setdefault(execution_id, {})
        decision = decide(plan, state, message, world.now, no_cel, {}, memo)
        if not decision.events and execution_id in self.cache and not again and not self.trusts_memory:
            # The fence guards what is appended. That a message means nothing must come from the log as well.
            del self.cache[execution_id]
            self.handle(message, stored, again=again)
            return
        after = decision.state
        if after is None:  # a cancel before its start: look again later
            return
        for digest, document in decision.definitions.items():
            world.definitions[digest] = WorkflowDefinition.model_validate_json(document)
        performed: list[Command] | None
        if decision.events:
            self.faults.maybe()
            after = advance(after, after.version + 1)
            performed = self._append(message, stored, after, length, decision.events)
            length += 1
            if performed is not None and self._may_lack_lease(plan, state, changed_at, message, again=again):
                performed += self._wake(plan, after)
        else:
            performed = self._look(message, stored, after, changed_at, again=again)
        if performed is None:
            return
        self.cache[execution_id] = (after, length)
        if isinstance(message, StartRequest) and stored is not None:
            self.leases.setdefault(execution_id, set()).add(stored.sequence)
        if self.faults.crash and world.rng.random() < STOPPED:  # others go on meanwhile, and it does all of this late
            until = world.now + world.rng.choice(STOPPED_S)
            self.stopped += [(until, command) for command in performed]
            return
        for command in performed:
            self.perform(command)
            self.faults.maybe()
        if stored is not None and not isinstance(message, StartRequest) and world.rng.random() > 0.02:
            world.inbox.pop(stored.sequence, None)

    def _append(
        self,
        message: InboxMessage,
        stored: Stored | None,
        after: ExecutionState,
        length: int,
        events: tuple[Event, ...],
    ) -> list[Command] | None:
        """Append a transition; return what follows from it, or None when somebody else was first."""
        execution_id = message.execution_id
        transition = Transition(LOG_VERSION, execution_id, after.version, self.world.now, events)
        try:
            self.world.append(execution_id, length, transition)
        except FenceLost:
            self.cache.pop(execution_id, None)
            if stored is not None:
                stored.visible_at = self.world.now
            return None
        self.faults.maybe()
        return commands(self.world.plan(execution_id), after, events)

    def _look(
        self, message: InboxMessage, stored: Stored | None, state: ExecutionState, changed_at: float, *, again: bool
    ) -> list[Command] | None:
        """Return what is to be done after a message that changes nothing, or None when its execution fell asleep."""
        plan = self.world.plan(message.execution_id)
        performed = list(outstanding(plan, state)) if again else []
        if isinstance(message, StepResult):
            check_dropped(plan, self.world.read(message.execution_id), message)
        if isinstance(message, StartRequest):
            rhythm = RHYTHM if stored is not None else replace(RHYTHM, horizon_s=LEASE_AGAIN_S)
            if again and falls_asleep(plan, state, changed_at, self.world.now, rhythm):
                self._put_to_sleep(message.execution_id, performed, stored)
                return None
        elif performed:
            self._wake(plan, state)
        return performed

    def _may_lack_lease(
        self, plan: Plan, state: ExecutionState | None, changed_at: float, message: InboxMessage, *, again: bool
    ) -> bool:
        if self.never_wakes:
            return False
        if again and not isinstance(message, StartRequest):
            return True
        if state is None:
            return False
        return may_be_asleep(plan, state, changed_at, self.world.now, RHYTHM)

    def _wake(self, plan: Plan, after: ExecutionState) -> list[Command]:
        """Put a new lease, and only then remove the schedules; return the timers to arm in their place."""
        if not after.finished:
            self.world.send(after.request)
            self.faults.maybe()
            for sequence in self.leases.pop(after.execution_id, ()):
                self.world.inbox.pop(sequence, None)
        self.world.unschedule(after.execution_id)
        self.faults.maybe()
        return [] if after.finished else [one for one in outstanding(plan, after) if isinstance(one, Arm)]

    def _put_to_sleep(self, execution_id: str, performed: list[Command], stored: Stored | None) -> None:
        """Store the timers, give the lease back (perhaps much later: who acknowledges may be stopped), and forget.

        Of one that a scan has found the lease, if there is one, comes again in time.
        """
        for command in performed:
            if not isinstance(command, Arm):
                self.perform(command)
            elif stored is not None:
                self.world.schedule(command.due, command.fired)
            self.faults.maybe()
        given_back = set() if stored is None else self.leases.pop(execution_id, set()) | {stored.sequence}
        if self.world.rng.random() < 0.3:
            self.late.append((self.world.now + self.world.rng.choice((0.5, 2.0, 5.0, 40.0)), given_back))
        else:
            self._acknowledge(given_back)
        self.cache.pop(execution_id, None)
        self.timers = [entry for entry in self.timers if entry[1].execution_id != execution_id]
        self.world.slept += 1

    def _acknowledge(self, sequences: set[int]) -> None:
        for sequence in sequences:
            self.world.inbox.pop(sequence, None)

    def perform(self, command: Command) -> None:
        """Do one command."""
        match command:
            case Run():
                self.world.queue(command.step)
            case Begin():
                self.world.accept(command.request)
            case Tell():
                self.world.send(command.message)
            case Enter() | Leave():
                self.gatekeeper.perform(command)
            case Arm() if command.fired.kind != "execution_timeout" and command.due - self.world.now > RHYTHM.horizon_s:
                self.world.schedule(command.due, command.fired)
            case Arm():
                self.timers.append((command.due, command.fired))
            case Abort():
                self.world.purge_work(command.execution_id, None if command.ended else command.attempts)
                self.world.unschedule(command.execution_id, None if command.ended else command.attempts)
            case Release():
                for sequence in self.leases.pop(command.execution_id, ()):
                    self.world.inbox.pop(sequence, None)

    def next_moment(self) -> float | None:
        """Return when its next timer is due."""
        moments = [due for due, _ in (*self.timers, *self.stopped)]
        at_gates = self.gatekeeper.next_moment()
        return min(moments if at_gates is None else [*moments, at_gates], default=None)

    def _state(self, message: InboxMessage, *, again: bool) -> tuple[ExecutionState | None, int]:
        execution_id = message.execution_id
        cached = self.cache.get(execution_id)
        if cached is not None and not again:  # what is performed again must not come from a stale memory
            return cached
        if isinstance(message, StartRequest) and not again:
            return None, 0
        log = self.world.read(execution_id)
        return (fold(self.world.plan(execution_id), log), len(log)) if log else (None, 0)


@dataclass
class Runner:
    """Take work, perform it, send the result, acknowledge."""

    world: World
    faults: Faults
    failures: float

    def step(self) -> bool:
        """Do one piece of work; tell whether there was any."""
        taken = self.world.take_work()
        if taken is None:
            return False
        subject, work = taken
        self.faults.maybe()
        key = attempt_key(work.step, work.item, work.attempt)
        self.world.performed[work.execution_id, key] += 1
        result = self.outcome(work)
        self.faults.maybe()
        if self.world.rng.random() < 0.97:
            self.world.send(result)
            self.faults.maybe()
            if self.world.rng.random() < 0.97:  # an acknowledgement may be lost
                self.world.work.pop(subject, None)
        return True

    def outcome(self, work: RunStep) -> StepResult:
        """The same for the same attempt, whoever performs it and how often: what a fair world would show."""
        key = f"{work.execution_id}/{attempt_key(work.step, work.item, work.attempt)}"
        rng = random.Random(key)
        error = deferred = None
        if rng.random() < DEFERRED:
            reason = rng.choice(("tokens", "budget", "approval"))
            until = self.world.now + rng.choice(DEFERRED_S)
            deferred = Deferral(until, reason, "3,200 tokens", ask=f"q{work.attempt}" if reason == "approval" else "")
        elif rng.random() < self.failures:
            category = rng.choice(("server_error", "timeout", "user_code"))
            error = ErrorInfo(category, category, "it failed")
        now = self.world.now
        return StepResult(
            execution_id=work.execution_id,
            step=work.step,
            attempt=work.attempt,
            item=work.item,
            started_at=now,
            finished_at=now,
            output=Payload({"by": key, "done": rng.random() < 0.4}) if error is None else Payload(),
            error=error,
            deferred=deferred,
        )
