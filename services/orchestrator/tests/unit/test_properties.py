"""The core under any messages: it never meets an impossible transition, and its state is what its log says."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from workflows import CHILD, SIGNALS, random_definition

from millrace_orchestrator.domain import evolve_steps, tables
from millrace_orchestrator.domain.commands import Arm, Begin, Command, Release, Run, Tell, commands, outstanding
from millrace_orchestrator.domain.decide import decide
from millrace_orchestrator.domain.evolve import advance, fold
from millrace_orchestrator.domain.gates import Enter, Leave
from millrace_orchestrator.domain.plan import Plan, compile_plan
from millrace_orchestrator.domain.snapshot import decode_snapshot, encode_snapshot
from millrace_orchestrator.domain.state import ExecutionState
from millrace_shared import messages
from millrace_shared.codec import decode_transition, encode
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.messages import (
    LOG_VERSION,
    Admission,
    CancelRequest,
    ContinueRequest,
    Deferral,
    ErrorInfo,
    Event,
    InboxMessage,
    PauseRequest,
    ResumeRequest,
    SignalRequest,
    StartRequest,
    StepResult,
    TimerFired,
    Transition,
    Use,
    VerdictRequest,
)
from millrace_shared.values import Payload

MESSAGES_MAX = 60
CATEGORIES = ("server_error", "timeout", "invalid_output", "rate_limit")
HELD = ("s0", "s1", "s3")
REQUEST = StartRequest(
    "e1", "default", "wf-1", "wf", 1, "hash", 0.0, uses={CHILD: Use("wf-2", 1, "child")}, breakpoints=HELD
)
REUSE = Payload({"execution_id": "e0", "steps": {"s0": {"output": {"data": 7}}, "s2": {"items": {"0": {"data": 8}}}}})

Unit = tuple[str, int | None]

UNIT_NAME, FOR_EACH_NAME = "unit", "for_each"
NAMES = {id(tables.UNIT): UNIT_NAME, id(tables.FOR_EACH): FOR_EACH_NAME}


def no_cel(*_: Any) -> Any:
    raise AssertionError("a simulated workflow used CEL")


class Play:
    """A random execution: messages that matter, and messages that do not, in any order."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.request = REQUEST if seed % 3 else replace(REQUEST, reuse=REUSE)
        if seed % 4 == 1:
            self.request = replace(REQUEST, breakpoints=("*",))
        self.plan: Plan = compile_plan(WorkflowDefinition.model_validate(random_definition(self.rng)))
        self.now = 1_000.0
        self.state: ExecutionState | None = None
        self.log: list[Transition] = []
        self.performed: list[Any] = []
        self.memo: dict[str, list[Any]] = {}

    @property
    def events(self) -> list[Event]:
        return [event for transition in self.log for event in transition.events]

    def step(self) -> bool:
        """Decide on one message; tell whether anything followed."""
        message = self.message()
        decision = decide(self.plan, self.state, message, self.now, no_cel, {}, self.memo)
        if not decision.events:
            assert decision.state is self.state
            return False
        version = len(self.log) + 1
        self.log.append(Transition(LOG_VERSION, "e1", version, self.now, decision.events))
        self.state = advance(decision.state, version)
        self.performed += commands(self.plan, self.state, decision.events)
        return True

    def message(self) -> InboxMessage:
        awaited = list(outstanding(self.plan, self.state)) if self.state is not None else []
        choice = self.rng.random()
        if self.state is None and choice < 0.5:
            return self.request
        runs = [one for one in awaited if isinstance(one, Run | Begin)]
        if runs and choice < 0.6:
            return self.result(*attempt_of(self.rng.choice(runs)))
        if choice < 0.7 and any(isinstance(one, Enter) for one in awaited):
            return self.admission(self.rng.random() < 0.9)
        arms = [one for one in awaited if isinstance(one, Arm)]
        if arms and choice < 0.8:
            arm = self.rng.choice(sorted(arms, key=lambda one: one.due)[:3])
            self.now = max(self.now, arm.due - self.rng.choice((0.0, 0.0, 0.0, 0.5)))
            return arm.fired
        return self.nonsense()

    def nonsense(self) -> InboxMessage:
        """Return a message that is late, early, repeated or mistaken."""
        rng = self.rng
        step = rng.choice([*self.plan.steps, "unknown"])
        item, attempt = rng.choice((None, None, 0, 1, 999)), rng.randint(0, 3)
        kind = rng.choice(("retry", "wait", "execution_timeout"))
        choices: list[InboxMessage] = [
            self.request,
            CancelRequest("e1", rng.choice(("c1", "c2", "c3"))),
            TimerFired("e1", kind, step, item, attempt),
            TimerFired("e1", kind, step, item, attempt),
            PauseRequest("e1", f"p{rng.randrange(9)}"),
            ResumeRequest("e1", "r"),
            ResumeRequest("e1", "r"),
            SignalRequest("e1", f"s{rng.randrange(20)}", rng.choice(SIGNALS), Payload(1)),
            VerdictRequest("e1", "v", step, rng.random() < 0.5, item),
            VerdictRequest("e1", "v", step, rng.random() < 0.5, item),
            ContinueRequest("e1", "c", rng.choice((*HELD, step)), rng.choice((None, None, 0))),
            ContinueRequest("e1", "c", rng.choice((*HELD, step)), edited=True, input=Payload({"delay": 3})),
            self.admission(rng.random() < 0.9),
            *(self.result(step, item, attempt) for _ in range(4)),
        ]
        return rng.choice(choices)

    def admission(self, admitted: bool) -> Admission:
        gates = self.state.gates if self.state is not None else ()
        return Admission("e1", gates[-1].gate if gates else "unknown", admitted, "so it is")

    def result(self, step: str, item: int | None, attempt: int) -> StepResult:
        rng = self.rng
        if rng.random() < 0.6:
            output = Payload({"n": rng.randrange(9), "done": rng.random() < 0.4})
            return StepResult("e1", step, attempt, 1.0, 2.0, item, output)
        if rng.random() < 0.3:
            deferral = Deferral(self.now + rng.choice((1.0, 60.0)), rng.choice(("tokens", "approval")), ask="q")
            return StepResult("e1", step, attempt, 1.0, 2.0, item, deferred=deferral)
        return StepResult("e1", step, attempt, 1.0, 2.0, item, error=ErrorInfo("x", rng.choice(CATEGORIES), "x"))


def attempt_of(command: Run | Begin) -> tuple[str, int | None, int]:
    """Return whose attempt a command hands out."""
    attempt = command.step if isinstance(command, Run) else command.request.parent
    assert attempt is not None
    return attempt.step, attempt.item, attempt.attempt


def under_way(events: list[Event]) -> tuple[dict[Unit, int], dict[Unit, float]]:
    """Return the attempts that run, and when the units that wait go on, by reading the events alone."""
    running: dict[Unit, int] = {}
    waiting: dict[Unit, float] = {}
    deadline = 0.0
    for event in events:
        unit = (getattr(event, "step", ""), getattr(event, "item", None))
        match event:
            case messages.StepScheduled():
                running[unit] = event.attempt
                waiting.pop(unit, None)
            case messages.StepWaiting() | messages.StepRetryScheduled() | messages.StepDeferred():
                running.pop(unit, None)
                waiting[unit] = event.at if isinstance(event, messages.StepRetryScheduled) else event.until
                if isinstance(event, messages.StepWaiting) and event.reason == "breakpoint":
                    del waiting[unit]
            case messages.ExecutionAdmitted(deadline=None) | messages.ExecutionPaused() | messages.StepExpanded():
                pass
            case (
                messages.ExecutionStarted()
                | messages.ExecutionAdmitted()
                | messages.ExecutionResumed()
                | messages.ExecutionEnding()
            ):
                assert event.deadline is not None
                waiting = {unit: event.deadline if due == deadline else due for unit, due in waiting.items()}
                deadline = event.deadline
            case _:
                running.pop(unit, None)
                waiting.pop(unit, None)
    return running, waiting


def own_deadline(state: ExecutionState) -> float:
    return state.pause.deadline if state.pause is not None and state.is_paused else state.deadline


def is_cancel(command: Command) -> bool:
    return isinstance(command, Tell) and isinstance(command.message, CancelRequest)


def is_begun(command: Command, cancelled: set[str]) -> bool:
    """Whether a command begins a child that is to do something; one that was cancelled is begun to find that out."""
    return isinstance(command, Begin) and command.request.execution_id not in cancelled


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_the_state_is_the_fold_of_the_log_after_every_message(seed: int) -> None:
    play = Play(seed)
    for _ in range(MESSAGES_MAX):
        if play.step():
            assert fold(play.plan, play.log) == play.state


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_a_snapshot_at_any_point_and_the_rest_lead_where_the_whole_log_does(seed: int, share: float) -> None:
    play = Play(seed)
    for _ in range(MESSAGES_MAX):
        play.step()
    if not play.log:
        return
    log = [decode_transition(encode(transition)) for transition in play.log]
    point = int(share * (len(log) - 1)) + 1
    snapshot = decode_snapshot(encode_snapshot(fold(play.plan, log[:point]), 7, 1.5))
    assert snapshot is not None
    assert (snapshot.state.version, snapshot.sequence, snapshot.at) == (point, 7, 1.5)
    assert fold(play.plan, log[point:], snapshot.state) == fold(play.plan, log)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_what_is_outstanding_is_what_has_begun_and_not_settled(seed: int) -> None:
    play = Play(seed)
    for _ in range(MESSAGES_MAX):
        if not play.step():
            continue
        assert play.state is not None
        awaited = list(outstanding(play.plan, play.state))
        if play.state.finished:
            assert awaited[-1] == Release("e1")
            assert all(isinstance(one, Leave | Begin | Tell) for one in awaited[:-1])
            return
        running, waiting = under_way(play.events)
        cancelled = {one.message.execution_id for one in awaited if is_cancel(one)}
        handed_out = [one for one in awaited if isinstance(one, Run) or is_begun(one, cancelled)]
        assert {one[:2]: one[2] for one in map(attempt_of, handed_out)} == running
        assert {
            (one.fired.step, one.fired.item): one.due
            for one in awaited
            if isinstance(one, Arm) and one.fired.kind != "execution_timeout"
        } == {unit: due for unit, due in waiting.items() if due < own_deadline(play.state)}
        assert play.state.running == len(running)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_everything_outstanding_was_commanded_when_it_began(seed: int) -> None:
    play = Play(seed)
    for _ in range(MESSAGES_MAX):
        play.step()
    if play.state is not None:
        begun = [one for one in outstanding(play.plan, play.state) if not isinstance(one, Tell)]
        assert [one for one in begun if one not in play.performed] == []


def test_these_histories_do_come_to_an_end_of_every_kind() -> None:
    outcomes = set()
    for seed in range(150):
        play = Play(seed)
        for _ in range(MESSAGES_MAX * 3):
            play.step()
        if play.state is not None and play.state.finished:
            outcomes.add(play.state.outcome)
    assert outcomes == {"completed", "failed", "cancelled", "timeout"}


@pytest.mark.parametrize("before", range(4))
def test_a_prefix_of_a_log_folded_on_is_the_whole_log_folded(before: int) -> None:
    play = Play(11)
    while len(play.log) < 4:
        play.step()
    begun = fold(play.plan, play.log[:before]) if before else None
    assert fold(play.plan, play.log[before:], begun) == play.state


BY_EXPRESSIONS = {(UNIT_NAME, "pending", "step.failed"), (UNIT_NAME, "queued", "step.failed")}
"""These need an expression that fails, which random workflows have not; the examples in test_decide have."""


def test_every_entry_of_the_tables_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    met = set()
    next_status = tables.next_status

    def noted(table: Any, status: str, event: Any, place: str) -> Any:
        met.add((NAMES[id(table)], status, type(event).__struct_config__.tag))
        return next_status(table, status, event, place)

    monkeypatch.setattr(evolve_steps, "next_status", noted)
    for seed in range(1_500):
        play = Play(seed)
        for _ in range(MESSAGES_MAX):
            play.step()
    known = {
        (NAMES[id(table)], status, event.__struct_config__.tag)
        for table in (tables.UNIT, tables.FOR_EACH)
        for status, event in table
    }
    assert met | BY_EXPRESSIONS == known
