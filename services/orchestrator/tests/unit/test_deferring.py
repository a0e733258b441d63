"""Attempts that give their place back, and the budgets that hold for a call."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from millrace_orchestrator.domain import deferring
from millrace_orchestrator.domain.commands import Run, commands, outstanding
from millrace_shared.messages import (
    Answer,
    BudgetScope,
    Deferral,
    RunStep,
    StartRequest,
    StepAnswered,
    StepDeferred,
    StepFailed,
    StepResult,
    StepRetryScheduled,
    Usage,
    VerdictRequest,
)
from millrace_shared.values import Payload

AGENTS = {"writer": {"model": "offline:demo"}}
WRITE = {"agent": "writer", "prompt": "Write.", "retry": {"max_attempts": 2}}


@pytest.fixture
def writing(play: Any) -> Any:
    p = play({"write": WRITE}, agents=AGENTS)
    p.start()
    return p


def defer(p: Any, attempt: int, reason: str = "tokens", **fields: Any) -> Any:
    """An attempt that has made a call gives its place back for 12 seconds."""
    deferral = Deferral(p.now + 12, reason, "3,200 tokens", **fields)  # type: ignore[arg-type]
    used = Usage(1, 100, 20, Decimal("0.01"))
    return p.feed(StepResult("e1", "write", attempt, p.now, p.now, deferred=deferral, usage=used))


def last_run(p: Any) -> RunStep:
    return [one.step for one in p.commands if isinstance(one, Run)][-1]


def test_it_holds_no_place_and_goes_on_in_time_as_the_same_conversation(writing: Any) -> None:
    (event,) = defer(writing, 1)
    assert isinstance(event, StepDeferred)
    assert (event.reason, event.detail, event.until) == ("tokens", "3,200 tokens", 1_012.0)
    assert (writing.status("write"), writing.state.running) == ("waiting", 0)
    assert writing.state.spent.calls == 1
    writing.fire_next_timer()
    assert (writing.now, writing.status("write")) == (1_012.0, "running")
    run = last_run(writing)
    assert (run.attempt, run.iteration, run.continues) == (2, 0, True)
    assert run.input.data == {"prompt": "Write."}


def test_a_first_attempt_continues_nothing(writing: Any) -> None:
    assert not last_run(writing).continues
    (again,) = [one for one in outstanding(writing.plan, writing.state) if isinstance(one, Run)]
    assert not again.step.continues


def test_it_counts_as_no_retry(writing: Any) -> None:
    for attempt in range(1, 6):
        defer(writing, attempt)
        writing.fire_next_timer()
    (event,) = writing.fail("write", attempt=6)
    assert isinstance(event, StepRetryScheduled)
    writing.fire_next_timer()
    assert isinstance(writing.fail("write", attempt=7)[0], StepFailed)


def test_who_is_turned_away_again_and_again_looks_less_often(play: Any) -> None:
    p = play({"write": WRITE}, agents=AGENTS, limits={"timeout": 86_400.0})
    p.start()
    pauses = []
    for attempt in range(1, 120):
        (event,) = defer(p, attempt)
        pauses.append(round(event.until - p.now))
        p.fire_next_timer()
    assert (pauses[:33], pauses[-1]) == ([12] * 33, 60)
    assert pauses == sorted(pauses)


def test_it_is_not_done_for_ever(writing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferring, "DEFERRALS_MAX", 2)
    for attempt in (1, 2):
        defer(writing, attempt)
        writing.fire_next_timer()
    event = defer(writing, 3)[0]
    assert isinstance(event, StepFailed)
    assert (event.error.code, event.error.category) == ("deferred_too_often", "llm_rate_limit")


def test_one_that_comes_late_changes_nothing(writing: Any) -> None:
    writing.complete("write", "done")
    assert defer(writing, 1) == ()


def test_a_question_is_answered_by_people(writing: Any) -> None:
    defer(writing, 1, "approval", ask="q1", question=Payload({"message": "May I?"}))
    verdict = VerdictRequest("e1", "v1", "write", True, note="go", data=Payload({"n": 1}), requested_by="ann")
    events = writing.feed(verdict)
    given = Answer("q1", approved=True, at=1_000.0, by="ann", note="go", data=Payload({"n": 1}), decision_id="v1")
    assert events[0] == StepAnswered("write", given)
    assert writing.status("write") == "running"
    assert last_run(writing).answers == (given,)
    assert writing.feed(replace(verdict, id="v2")) == ()  # the first answer counts


def test_a_question_that_nobody_answers_comes_back_unanswered(writing: Any) -> None:
    defer(writing, 1, "approval", ask="q1")
    writing.fire_next_timer()
    (given,) = last_run(writing).answers
    assert (given.ask, given.approved, given.by, given.at) == ("q1", False, "", 1_012.0)


def test_a_verdict_is_not_for_one_that_waits_for_tokens(writing: Any) -> None:
    defer(writing, 1)
    assert writing.feed(VerdictRequest("e1", "v1", "write", True)) == ()


def test_a_new_iteration_is_a_new_conversation(play: Any) -> None:
    p = play({"write": {**WRITE, "repeat": {"until": "iteration == 2", "max": 3}}}, agents=AGENTS)
    p.start()
    defer(p, 1, "approval", ask="q1")
    p.feed(VerdictRequest("e1", "v1", "write", True))
    p.complete("write", "one", attempt=2)
    run = last_run(p)
    assert (run.attempt, run.iteration, run.continues, run.answers) == (3, 1, False, ())


def test_one_that_runs_while_the_execution_ends_does_not_wait(play: Any) -> None:
    p = play({"write": WRITE, "other": {"python": "a:b"}}, agents=AGENTS)
    p.start()
    p.fail("other")
    event = defer(p, 1)[0]
    assert isinstance(event, StepFailed)
    assert event.error.code == "deferred_at_end"
    assert p.outcome == "failed"


class TestBudgets:
    def test_all_that_hold_for_a_call_go_with_it_the_innermost_first(self, play: Any) -> None:
        step = {**WRITE, "budget": {"max_calls": 3, "on_breach": "downgrade"}}
        p = play({"write": step}, agents=AGENTS, limits={"max_cost_usd": 0.5})
        above = BudgetScope("e0", tokens=1_000)
        p.feed(StartRequest("e1", "default", "wf-1", "wf", 3, "hash", p.now, budgets=(above,)))
        assert last_run(p).budgets == (
            BudgetScope("e1/write", calls=3, on_breach="downgrade"),
            BudgetScope("e1", Decimal("0.5")),
            above,
        )

    def test_those_of_a_step_and_its_execution_go_down(self, play: Any) -> None:
        p = play(
            {"team": {"group": {"steps": {"write": WRITE}}, "budget": {"max_tokens": 9}}},
            agents=AGENTS,
            limits={"max_calls": 7},
        )
        p.start()
        (begin,) = commands(p.plan, p.state, p.events)[1:]
        assert begin.request.budgets == (BudgetScope("e1/team", tokens=9), BudgetScope("e1", calls=7))

    @pytest.mark.parametrize(
        ("limits", "ends"),
        [
            ({"max_tokens": 120}, True),
            ({"max_tokens": 121}, False),
            ({"max_calls": 1}, True),
            ({"max_calls": 1, "on_breach": "alert"}, False),
            ({"max_cost_usd": 0.01}, True),
            ({"max_cost_usd": 0.01, "on_breach": "ask"}, False),
        ],
    )
    def test_an_execution_that_has_used_its_own_up_begins_nothing_more(
        self, play: Any, limits: dict[str, Any], ends: bool
    ) -> None:
        p = play({"write": WRITE, "next": {**WRITE, "needs": ["write"]}}, agents=AGENTS, limits=limits)
        p.start()
        used = Usage(1, 100, 20, Decimal("0.01"))
        p.feed(StepResult("e1", "write", 1, 1.0, 2.0, output=Payload("x"), usage=used))
        assert (p.outcome == "failed") is ends
        if ends:
            assert p.state.error.code == "budget_exceeded"
