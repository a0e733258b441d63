"""A model of the bus: what the streams promise, and nothing more.

A log takes an append only under its fence. The inbox delivers each execution's messages in order, and again when they
are not acknowledged; deliveries may be doubled. Work is queued once for each subject, and delivered again when it is
not acknowledged. A crash of the server loses work (it is persisted lazily) and nothing else.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from millrace_orchestrator.domain.plan import Plan, compile_plan
from millrace_shared.codec import decode_inbox, decode_transition, decode_work, encode
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.definition.parts import part_of
from millrace_shared.ids import attempt_key
from millrace_shared.messages import ExecutionFinished, InboxMessage, RunStep, StartRequest, TimerFired, Transition


class FenceLost(Exception):
    """Somebody else has appended to the log first."""


@dataclass(slots=True)
class Stored:
    """A message in a work queue. Everything travels as bytes, as it does in truth."""

    sequence: int
    payload: bytes
    visible_at: float = 0.0
    deliveries: int = 0


@dataclass
class World:
    """Streams, the clock, and the only source of chance."""

    rng: random.Random
    now: float = 1_000.0
    logs: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    inbox: dict[int, Stored] = field(default_factory=dict)
    work: dict[str, Stored] = field(default_factory=dict)
    long_timers: dict[str, tuple[float, bytes]] = field(default_factory=dict)
    sequence: int = 0
    performed: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    requests: dict[str, StartRequest] = field(default_factory=dict)
    definitions: dict[str, WorkflowDefinition] = field(default_factory=dict)
    plans: dict[tuple[str, str], Plan] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    slept: int = 0

    def plan(self, execution_id: str) -> Plan:
        """Return what an execution that was accepted runs."""
        request = self.requests[execution_id]
        key = (request.definition, request.part)
        if key not in self.plans:
            self.plans[key] = compile_plan(part_of(self.definitions[request.definition], request.part))
        return self.plans[key]

    def accept(self, request: StartRequest) -> None:
        """Accept an execution, unless it is accepted already. Once it was swept, its start may be stored again."""
        if request.execution_id in self.requests and (self._has_start(request.execution_id) or self.rng.random() < 0.8):
            return
        self.requests.setdefault(request.execution_id, request)
        self.send(request)

    def _has_start(self, execution_id: str) -> bool:
        return any(request.execution_id == execution_id for request in self.active())

    def append(self, execution_id: str, length: int, transition: Transition) -> None:
        """Append to a log that must be `length` messages long."""
        if len(self.logs[execution_id]) != length:
            raise FenceLost
        self.logs[execution_id].append(encode(transition))

    def read(self, execution_id: str) -> list[Transition]:
        """Return a log."""
        return [decode_transition(payload) for payload in self.logs.get(execution_id, ())]

    def changed_at(self, execution_id: str, length: int) -> float:
        """Return when the transition was made that a log of `length` ends with."""
        return decode_transition(self.logs[execution_id][length - 1]).at if length else 0.0

    def has_ended(self, execution_id: str) -> bool:
        """Whether a log has its end."""
        log = self.read(execution_id)
        return bool(log) and isinstance(log[-1].events[-1], ExecutionFinished)

    def send(self, message: InboxMessage) -> None:
        """Put a message into the inbox; once in a while twice."""
        for _ in range(2 if self.rng.random() < 0.05 else 1):
            self.sequence += 1
            self.inbox[self.sequence] = Stored(self.sequence, encode(message))

    def receive(self) -> tuple[Stored, InboxMessage] | None:
        """Deliver the next inbox message of a random execution, and hide it until its acknowledgement wait is over."""
        heads: dict[str, Stored] = {}
        for stored in self.inbox.values():
            if stored.visible_at <= self.now:
                heads.setdefault(decode_inbox(stored.payload).execution_id, stored)
        if not heads:
            return None
        stored = heads[self.rng.choice(sorted(heads))]
        stored.deliveries += 1
        stored.visible_at = self.now + (4.0 if stored.deliveries == 1 else 30.0)
        return stored, decode_inbox(stored.payload)

    def queue(self, step: RunStep) -> None:
        """Queue work. A subject that holds a message already takes no second one."""
        subject = f"{step.execution_id}/{attempt_key(step.step, step.item, step.attempt)}"
        if subject not in self.work:
            self.sequence += 1
            self.work[subject] = Stored(self.sequence, encode(step))

    def take_work(self) -> tuple[str, RunStep] | None:
        """Deliver a random visible piece of work, and hide it until its acknowledgement wait is over."""
        visible = sorted(subject for subject, stored in self.work.items() if stored.visible_at <= self.now)
        if not visible:
            return None
        subject = self.rng.choice(visible)
        stored = self.work[subject]
        stored.visible_at = self.now + 15.0
        return subject, decode_work(stored.payload)

    def purge_work(self, execution_id: str, attempts: tuple[str, ...] | None) -> None:
        """Remove what an execution has queued: all of it, or some attempts."""
        queued = [subject for subject in self.work if subject.startswith(f"{execution_id}/")]
        for subject in queued if attempts is None else [f"{execution_id}/{key}" for key in attempts]:
            self.work.pop(subject, None)

    def schedule(self, due: float, fired: TimerFired) -> None:
        """Set a long timer; setting it again replaces it."""
        payload = encode(fired)
        self.long_timers[payload.decode()] = (due, payload)

    def unschedule(self, execution_id: str, attempts: tuple[str, ...] | None = None) -> None:
        """Remove the long timers of an execution: all of them, or those of some attempts."""
        for key, (_, payload) in list(self.long_timers.items()):
            fired = decode_inbox(payload)
            assert isinstance(fired, TimerFired)
            is_meant = attempts is None or attempt_key(fired.step, fired.item, fired.attempt) in attempts
            if fired.execution_id == execution_id and is_meant:
                del self.long_timers[key]

    def fire_long_timers(self) -> None:
        """Move the timers that are due into the inbox."""
        for key, (due, payload) in list(self.long_timers.items()):
            if due <= self.now:
                del self.long_timers[key]
                self.sequence += 1
                self.inbox[self.sequence] = Stored(self.sequence, payload)

    def lose_work(self) -> None:
        """The server is killed: what was persisted lazily is gone, and whatever was delivered is forgotten."""
        for subject in list(self.work):
            if self.rng.random() < 0.7:
                del self.work[subject]

    def active(self) -> list[StartRequest]:
        """Return the start messages that are still in the inbox: the index of what is active."""
        messages = (decode_inbox(stored.payload) for stored in self.inbox.values())
        return [message for message in messages if isinstance(message, StartRequest)]

    def receive_possible(self) -> bool:
        """Whether an inbox message could be delivered now."""
        return any(stored.visible_at <= self.now for stored in self.inbox.values())

    def work_possible(self) -> bool:
        """Whether work could be delivered now."""
        return any(stored.visible_at <= self.now for stored in self.work.values())

    def next_moment(self) -> float | None:
        """Return the next time at which something becomes visible or due."""
        moments = [stored.visible_at for stored in (*self.inbox.values(), *self.work.values())]
        moments += [due for due, _ in self.long_timers.values()]
        later = [moment for moment in moments if moment > self.now]
        return min(later, default=None)
