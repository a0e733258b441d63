"""Plausible logs: executions as an orchestrator would write them, from a seed.

They hold what is awkward as well: retries, items, timeouts, claim-checked values, unknown prices, nulls, odd text,
gates and pauses that overlap, children, iterations, results that were reused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from random import Random
from typing import Any

from millrace_shared.codec import encode
from millrace_shared.execution.view import ExecutionView
from millrace_shared.ids import new_id
from millrace_shared.messages import (
    LOG_VERSION,
    Answer,
    ErrorInfo,
    Event,
    ExecutionAdmitted,
    ExecutionCancelRequested,
    ExecutionEnding,
    ExecutionFinished,
    ExecutionHeld,
    ExecutionPaused,
    ExecutionResumed,
    ExecutionStarted,
    FinalStatus,
    Origin,
    Parent,
    SignalReceived,
    StartRequest,
    StepAnswered,
    StepCancelled,
    StepCompleted,
    StepDeferred,
    StepExpanded,
    StepFailed,
    StepIterated,
    StepQueued,
    StepRetryScheduled,
    StepReused,
    StepScheduled,
    StepSkipped,
    StepWaiting,
    Transition,
    Usage,
)
from millrace_shared.values import BlobRef, Payload

BEGIN_S = 1_790_000_000.0
VALUES: tuple[Any, ...] = (
    None,
    0,
    "text",
    {"z": 1, "a": [1, 2.5, None, True]},
    ["ä", "漢", "\x00", "\\u0000", 'quote"', "\u2028"],
    12345678901234567,
    1e22,
    "",
)


def random_log(random: Random, *, workspace: str = "default", finished: bool | None = None) -> list[Transition]:
    """Return the log of one execution.

    Args:
        random: where every choice comes from; the same state gives the same log.
        workspace: the execution's workspace.
        finished: whether the log ends with `execution.finished`; by chance when None.
    """
    return _Writer(random, workspace).write(finished=not _one_in(random, 10) if finished is None else finished)


def simple_log(execution_id: str, *, at: float = BEGIN_S, steps: int = 3, workflow: str = "wf") -> list[Transition]:
    """Return the log of `steps` python steps in a row that all complete: one transition more than steps."""
    request = StartRequest(
        execution_id, "default", workflow, workflow, 1, "0" * 64, at, Payload({"n": 1}), labels={"team": "a"}
    )
    pending: list[Event] = [ExecutionStarted(request, at + 3600.0)]
    log: list[Transition] = []
    for number in range(steps):
        step = f"step{number}"
        pending.append(StepScheduled(step, 1, input=Payload({"n": number})))
        log.append(Transition(LOG_VERSION, execution_id, len(log) + 1, at + number / 100, tuple(pending)))
        times = (at + number / 100 + 0.002, at + number / 100 + 0.003)
        pending = [StepCompleted(step, 1, None, Payload({"result": number}), *times, None, "runner-1")]
    pending.append(ExecutionFinished("completed", Payload({"result": steps})))
    log.append(Transition(LOG_VERSION, execution_id, len(log) + 1, at + steps / 100, tuple(pending)))
    return log


def interleaved(random: Random, logs: Sequence[Sequence[Transition]]) -> list[Transition]:
    """Return all transitions in a random order that keeps each log's own."""
    order = [number for number, log in enumerate(logs) for _ in log]
    random.shuffle(order)
    sources = [iter(log) for log in logs]
    return [next(sources[number]) for number in order]


def encoded(transitions: Iterable[Transition]) -> list[bytes]:
    """Return what the log stores for each."""
    return [encode(transition) for transition in transitions]


def counts(transitions: Iterable[Transition]) -> dict[str, dict[str, int]]:
    """Return the numbers of executions and steps by status that tables projected from this log must show."""
    views: dict[str, ExecutionView] = {}
    for transition in transitions:
        views.setdefault(transition.execution_id, ExecutionView()).apply(transition)
    executions = Counter(view.execution["status"] for view in views.values() if view.execution)
    steps = Counter(row["status"] for view in views.values() for row in view.steps if row["item"] < 0)
    return {"executions": dict(executions), "steps": dict(steps)}


class _Writer:
    def __init__(self, random: Random, workspace: str) -> None:
        self._random = random
        self._workspace = workspace
        self._at = BEGIN_S + random.randrange(1_000_000) + random.random()
        self._id = new_id(self._at, random.randbytes(10))
        self._log: list[Transition] = []

    def write(self, *, finished: bool) -> list[Transition]:
        pending: list[Event] = [self._started()]
        if _one_in(self._random, 4):
            pending = self._gates(pending)
        for number in range(self._random.randrange(6)):
            pending = self._step(f"step-{number}", pending)
        outcome: FinalStatus = self._random.choice(("completed", "failed", "cancelled", "timeout"))
        if outcome == "cancelled":
            pending.append(ExecutionCancelRequested("c1", "enough", "somebody"))
        if outcome != "completed":
            pending += [ExecutionEnding(outcome, self._at + 60.0), StepCancelled("late", reason="the execution ends")]
        if finished:
            error = None if outcome == "completed" else self._error()
            pending.append(ExecutionFinished(outcome, self._payload(), error))
        self._append(pending)
        return self._log

    def _started(self) -> ExecutionStarted:
        random = self._random
        request = StartRequest(
            self._id,
            self._workspace,
            workflow_id=f"workflow-{random.randrange(3)}",
            workflow_name="näme\x00",
            workflow_version=random.randrange(1, 5),
            definition=random.randbytes(32).hex(),
            requested_at=self._at - random.random(),
            input=self._payload(),
            execution_name=random.choice((None, "named")),
            labels=random.choice(({}, {"team": "a", "tier": "1"})),
            priority=random.choice(("high", "normal", "low")),
            requested_by=random.choice(("", "key-1")),
            traceparent=random.choice((None, f"00-{'a' * 32}-{'b' * 16}-01")),
            **self._lineage(),
        )
        return ExecutionStarted(request, self._at + 900.0)

    def _lineage(self) -> dict[str, Any]:
        random = self._random
        if _one_in(random, 4):
            inline = _one_in(random, 2)
            parent = Parent(self._other_id(), "team", 1, self._other_id(), 2, random.choice((None, 3)), inline)
            return {"parent": parent, "part": "outer/team" if inline else ""}
        if _one_in(random, 4):
            return {
                "origin": Origin("retry", self._other_id()),
                "breakpoints": random.choice(((), ("*",), ("step-1",))),
            }
        return {}

    def _gates(self, pending: list[Event]) -> list[Event]:
        """Append the wait at two gates, with a pause that begins at one and ends at the other, or later."""
        self._append([*pending, ExecutionHeld("gate-1", "throttle")])
        self._append([self._pause()])
        resumed = ExecutionResumed(self._at + 950.0, "r1", "somebody")
        early = _one_in(self._random, 2)
        self._append([ExecutionAdmitted("gate-1"), ExecutionHeld("gate-2", "concurrency", "acme"), *[resumed] * early])
        self._append([ExecutionAdmitted("gate-2", self._at + 900.0), *[resumed] * (not early)])
        return []

    def _pause(self) -> ExecutionPaused:
        return ExecutionPaused(self._at + 3600.0, "p1", "to look at it", "somebody")

    def _step(self, step: str, pending: list[Event]) -> list[Event]:
        """Append the life of one step; return the events that its last transition shares with what follows."""
        lives: tuple[Callable[[], list[Event]], ...] = (
            lambda: [*pending, StepSkipped(step, "its condition is false")],
            lambda: [*pending, StepCompleted(step, output=self._payload())],
            lambda: [*pending, StepReused(step, self._other_id(), output=self._payload())],
            lambda: self._delay(step, pending),
            lambda: self._queued(step, pending),
            lambda: self._items(step, pending),
            lambda: self._approval(step, pending),
            lambda: self._iterations(step, pending),
            lambda: self._child(step, pending),
            *[lambda: self._attempts(step, None, pending)] * 3,
        )
        return self._random.choice(lives)()

    def _delay(self, step: str, pending: list[Event]) -> list[Event]:
        self._append([*pending, StepWaiting(step, self._at + 60.0)])
        return [StepCompleted(step, output=Payload())]

    def _queued(self, step: str, pending: list[Event]) -> list[Event]:
        self._append([*pending, StepQueued(step)])
        return self._attempts(step, None, [])

    def _approval(self, step: str, pending: list[Event]) -> list[Event]:
        """Append a breakpoint, a wait for a person or a signal, and a pause meanwhile."""
        question = StepWaiting(step, self._at + 60.0, reason="approval", input=Payload({"message": "Publish?"}))
        signal = StepWaiting(step, self._at + 60.0, reason="signal", signal="payment")
        self._append([*pending, StepWaiting(step, self._at + 9.0, reason="breakpoint", input=self._payload())])
        self._append([self._random.choice((question, signal))])
        self._append([self._pause(), SignalReceived("s1", "payment", self._payload(), "somebody")])
        self._append([ExecutionResumed(self._at + 900.0, "r1", "somebody")])
        if _one_in(self._random, 3):
            return [StepFailed(step, self._error())]
        return [StepCompleted(step, output=self._payload())]

    def _iterations(self, step: str, pending: list[Event]) -> list[Event]:
        """Append a `repeat`: attempts count on, and each iteration may have retries."""
        attempt = 1
        for iteration in range(1, self._random.randrange(2, 4)):
            self._append([*pending, StepScheduled(step, attempt, input=self._payload())])
            if _one_in(self._random, 3):
                self._append([StepRetryScheduled(step, attempt, self._at + 2.0, self._error(), None, *self._times())])
                attempt += 1
                self._append([StepScheduled(step, attempt)])
            pending = [StepIterated(step, iteration, attempt, None, self._payload(), *self._times())]
            attempt += 1
        self._append([*pending, StepScheduled(step, attempt, input=self._payload())])
        more: dict[str, Any] = {"cached": _one_in(self._random, 2), "scores": {"output.judge": 0.25}}
        return [StepCompleted(step, attempt, None, self._payload(), *self._times(), **more)]

    def _child(self, step: str, pending: list[Event]) -> list[Event]:
        self._append([*pending, StepScheduled(step, 1, input=self._payload(), child=self._other_id(), plan="0" * 64)])
        return [StepCompleted(step, 1, None, self._payload(), *self._times())]

    def _items(self, step: str, pending: list[Event]) -> list[Event]:
        count = self._random.randrange(4)
        pending = [*pending, StepExpanded(step, count)]
        for item in range(count):
            pending = self._attempts(step, item, pending)
        return [*pending, StepCompleted(step, output=Payload([None] * count))]

    def _attempts(self, step: str, item: int | None, pending: list[Event]) -> list[Event]:
        random = self._random
        attempt = 1
        self._append([*pending, StepScheduled(step, attempt, item, self._payload())])
        while _one_in(random, 3):
            if _one_in(random, 3):
                self._defer(step, attempt, item)
            else:
                self._append([StepRetryScheduled(step, attempt, self._at + 2.0, self._error(), item, *self._times())])
            attempt += 1
            self._append([StepScheduled(step, attempt, item)])
        match random.randrange(5):
            case 0:
                failed = StepFailed(step, self._error(), attempt, item, _one_in(random, 2), *self._times())
                return [failed]
            case 1:
                return [StepCancelled(step, item, "the execution ends")]
            case _:
                return [StepCompleted(step, attempt, item, self._payload(), *self._times())]

    def _defer(self, step: str, attempt: int, item: int | None) -> None:
        """Append an attempt that waits for tokens, or asks somebody and gets an answer."""
        started_at, finished_at, usage, runner = self._times()
        asks = _one_in(self._random, 2)
        deferred = StepDeferred(
            step,
            attempt,
            self._at + 12.0,
            "approval" if asks else "tokens",
            "3,200 tokens",
            ask="q1" if asks else "",
            item=item,
            started_at=started_at,
            finished_at=finished_at,
            usage=usage,
            runner=runner,
        )
        self._append([deferred])
        if asks:
            self._append([StepAnswered(step, Answer("q1", approved=True, at=self._at, by="somebody"), item)])

    def _times(self) -> tuple[float | None, float | None, Usage | None, str]:
        """When an attempt ran, what it used, and where. A runner that was lost says none of it."""
        random = self._random
        if _one_in(random, 5):
            return None, None, None, ""
        cost = random.choice((None, Decimal(0), Decimal("0.000123"), Decimal("1.5")))
        usage = random.choice((None, Usage(), Usage(random.randrange(1, 4), 100, 20, cost)))
        return self._at - random.random(), self._at, usage, "runner-1"

    def _payload(self) -> Payload:
        if _one_in(self._random, 10):
            return Payload({"big": None}, {"/big": BlobRef("f" * 64, 100_000)})
        return Payload(self._random.choice(VALUES))

    def _error(self) -> ErrorInfo:
        category = self._random.choice(("timeout", "server_error", "tool_error"))
        return ErrorInfo("code", category, "what happened: \x00", retryable=True, detail={"status": 500})

    def _other_id(self) -> str:
        return new_id(self._at, self._random.randbytes(10))

    def _append(self, events: Sequence[Event]) -> None:
        self._at += self._random.random()
        self._log.append(Transition(LOG_VERSION, self._id, len(self._log) + 1, self._at, tuple(events)))


def _one_in(random: Random, count: int) -> bool:
    return random.randrange(count) == 0
