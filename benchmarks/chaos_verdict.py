"""What a run full of faults came to, from the logs of its executions and the facts of its runners. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from millrace_shared.messages import (
    ExecutionFinished,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepRetryScheduled,
    StepReused,
    StepScheduled,
    StepSkipped,
    StepStarted,
    StepWaiting,
    Transition,
)

_SETTLING = (StepCompleted, StepFailed, StepSkipped, StepCancelled, StepReused)
GIVEN_UP = "work_undeliverable"
TAKEOVER_S_MAX = 30.0
"""A later start of the same attempt than this after a fault has another cause."""


@dataclass
class Fault:
    """Something that was done to a process.

    Attributes:
        at: when, in Unix seconds.
        process: its name.
        signal: what it got.
        over_at: when the process went on, or its successor was ready, in Unix seconds; infinity until then.
    """

    at: float
    process: str
    signal: str
    over_at: float = math.inf


@dataclass(frozen=True)
class Takeover:
    """An attempt that a fault interrupted, and that was begun anew.

    Attributes:
        seconds: from the fault to the new beginning.
        execution_id: whose attempt it is.
        fault: of the runner that had it.
        taken_by: the runner that has it now.
        others_hit: faults of other runners that were down at any moment of it.
        healthy: other runners that were well all the time.
    """

    seconds: float
    execution_id: str
    fault: Fault
    taken_by: str
    others_hit: tuple[Fault, ...]
    healthy: int

    def __str__(self) -> str:
        others = [
            f"{one.signal} {one.process} from {one.at - self.fault.at:+.1f} s to {one.over_at - self.fault.at:+.1f} s"
            for one in self.others_hit
        ]
        return (
            f"{self.seconds:.1f} s after {self.fault.signal} of {self.fault.process} by {self.taken_by}, "
            f"{self.healthy} others well; hit: {', '.join(others) or 'none'} ({self.execution_id})"
        )


@dataclass
class Accepted:
    """An execution that was accepted, and what is known of it at the end.

    Attributes:
        pause_s: how long its log is silent at most when nothing goes wrong: its longest step, wait or backoff.
        log: its transitions, in order.
        starts: when runners said that they began attempts of it.
        status: what the api says at the end.
    """

    execution_id: str
    workflow: str
    pause_s: float
    log: Sequence[Transition] = ()
    starts: Sequence[StepStarted] = ()
    status: str = ""

    @property
    def final(self) -> str | None:
        """How it ended by its log, or None."""
        last = self.log[-1].events[-1] if self.log else None
        return last.status if isinstance(last, ExecutionFinished) else None


@dataclass
class Verdict:
    """The figures of a run. `lost`, `stuck` and `double` must be empty; they hold execution ids.

    Attributes:
        lost: accepted, and without a log.
        stuck: begun, and without an end.
        double: a step, an item or the execution itself settled more than once, or a version is missing or twice there.
        disagreeing: the api and the log do not say the same.
        ended: executions by how they ended.
        given_up: of those that failed, the ones whose work went to DEAD, since each of its runners was struck in turn.
        repeated: attempts that more than one runner began.
        attempts: attempts that took long enough to be announced.
        stalls_s: by how much logs were silent for longer than their workflow accounts for, the longest of each.
        takeovers: attempts that a fault interrupted, and that were begun anew.
        pickups_s: from handing an attempt out to its beginning, of those that were begun once.
        decisions_s: from the end of an attempt to the transition that it led to, by whichever orchestrator.
        timers_s: by how much waits were over too late.
        worst: the longest stall's workflow and execution id.
    """

    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    disagreeing: list[str] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    given_up: int = 0
    repeated: int = 0
    attempts: int = 0
    stalls_s: list[float] = field(default_factory=list)
    takeovers: list[Takeover] = field(default_factory=list)
    pickups_s: list[float] = field(default_factory=list)
    decisions_s: list[float] = field(default_factory=list)
    timers_s: list[float] = field(default_factory=list)
    worst: str = ""

    @property
    def is_good(self) -> bool:
        """Whether something was done at all, and nothing was lost, stuck, or done twice."""
        return bool(self.ended) and not (self.lost or self.stuck or self.double)


def judge(accepted: Iterable[Accepted], faults: Sequence[Fault], runners: Collection[str]) -> Verdict:
    """Count what became of the executions.

    Args:
        accepted: all of them.
        faults: all that was done to processes.
        runners: the names of all runners.
    """
    verdict = Verdict()
    of_runners = [fault for fault in faults if fault.process in runners]
    for one in accepted:
        _classify(one, verdict)
        attempts = _by_attempt(one.starts)
        verdict.attempts += len(attempts)
        verdict.repeated += sum(len({start.runner for start in starts}) > 1 for starts in attempts)
        verdict.takeovers += _takeovers(one.execution_id, attempts, of_runners, len(runners))
        stall_s = max((after.at - before.at - one.pause_s for before, after in pairwise(one.log)), default=0.0)
        if stall_s >= max(verdict.stalls_s, default=0.0):
            often = max(map(len, attempts), default=0)
            verdict.worst = f"{one.workflow} {one.execution_id}, an attempt of which was begun {often} times"
        verdict.stalls_s.append(max(0.0, stall_s))
        _delays(one, verdict)
    return verdict


def _classify(one: Accepted, verdict: Verdict) -> None:
    if not one.log:
        verdict.lost.append(one.execution_id)
        return
    if one.final is None:
        verdict.stuck.append(one.execution_id)
    else:
        verdict.ended[one.final] += 1
        verdict.given_up += any(
            isinstance(event, StepFailed) and event.error.code == GIVEN_UP
            for transition in one.log
            for event in transition.events
        )
        if one.status != one.final:
            verdict.disagreeing.append(one.execution_id)
    if _is_double(one.log):
        verdict.double.append(one.execution_id)


def _is_double(log: Sequence[Transition]) -> bool:
    events = [event for transition in log for event in transition.events]
    settled = Counter(
        (event.step, event.item if not isinstance(event, StepSkipped) else None)
        for event in events
        if isinstance(event, _SETTLING)
    )
    ends = sum(isinstance(event, ExecutionFinished) for event in events)
    versions = [transition.version for transition in log]
    return ends > 1 or max(settled.values(), default=0) > 1 or versions != list(range(1, len(log) + 1))


def _by_attempt(starts: Sequence[StepStarted]) -> list[list[StepStarted]]:
    found: dict[tuple[str, int | None, int], list[StepStarted]] = defaultdict(list)
    for start in starts:
        found[start.step, start.item, start.attempt].append(start)
    return [sorted(one, key=lambda start: start.at) for one in found.values()]


def _takeovers(
    execution_id: str, attempts: list[list[StepStarted]], faults: Sequence[Fault], runners: int
) -> Iterable[Takeover]:
    """Yield, for each attempt that was begun anew, what became of it after the fault of the runner that had it."""
    for starts in attempts:
        for first, second in pairwise(starts):
            causes = [one for one in faults if one.process == first.runner and first.at <= one.at < second.at]
            if not causes or second.at - causes[0].at >= TAKEOVER_S_MAX:
                continue
            cause = causes[0]
            hit = [
                one for one in faults if one.process != cause.process and one.at < second.at and one.over_at > cause.at
            ]
            healthy = runners - 1 - len({one.process for one in hit})
            yield Takeover(second.at - cause.at, execution_id, cause, second.runner, tuple(hit), healthy)


def _delays(one: Accepted, verdict: Verdict) -> None:
    """Note how long the execution waited for a runner, for an orchestrator, and for its timers."""
    scheduled: dict[tuple[str, int | None, int], float] = {}
    begun_often = {
        (start.step, start.item, start.attempt) for starts in _by_attempt(one.starts) for start in starts[1:]
    }
    due: dict[tuple[str, int | None], float] = {}
    for transition in one.log:
        for event in transition.events:
            match event:
                case StepScheduled():
                    scheduled[event.step, event.item, event.attempt] = transition.at
                case StepWaiting():
                    due[event.step, event.item] = event.until
                case StepCompleted() | StepFailed() | StepRetryScheduled() if event.started_at and event.finished_at:
                    key = event.step, event.item, event.attempt
                    if key in scheduled and key not in begun_often:
                        verdict.pickups_s.append(max(0.0, event.started_at - scheduled[key]))
                    verdict.decisions_s.append(max(0.0, transition.at - event.finished_at))
                case StepCompleted() if (event.step, event.item) in due:
                    verdict.timers_s.append(max(0.0, transition.at - due[event.step, event.item]))
                case _:
                    pass
