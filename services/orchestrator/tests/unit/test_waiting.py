"""Signals, approvals, pauses, gates and breakpoints by example: one rule, one test."""

from __future__ import annotations

from typing import Any

import pytest

from millrace_orchestrator.domain.commands import Arm, Enter, Leave, Release, Run, outstanding
from millrace_orchestrator.domain.state import HELD_S_MAX
from millrace_orchestrator.domain.waiting import SIGNALS_MAX
from millrace_shared.messages import (
    Admission,
    ContinueRequest,
    ErrorInfo,
    ExecutionAdmitted,
    ExecutionHeld,
    ExecutionPaused,
    ExecutionResumed,
    PauseRequest,
    ResumeRequest,
    SignalReceived,
    SignalRequest,
    StartRequest,
    StepCompleted,
    StepWaiting,
    VerdictRequest,
)
from millrace_shared.values import BlobRef, Payload

PY = {"python": "m:f"}
ASK = {"approval": {"message": "Go, ${{ inputs.who }}?", "deadline": "10s"}}
SIGNAL = {"wait": {"signal": "go", "timeout": "10s"}}


def signal(play: Any, name: str = "go", data: Any = 1, signal_id: str = "s1") -> Any:
    return play.feed(SignalRequest("e1", signal_id, name, Payload(data), "someone"))


def verdict(play: Any, approved: bool, step: str = "ok", **rest: Any) -> Any:
    return play.feed(VerdictRequest("e1", "v1", step, approved, requested_by="ann", note="fine", **rest))


def pause(play: Any) -> Any:
    return play.feed(PauseRequest("e1", "p1", "look", "ann"))


def resume(play: Any) -> Any:
    return play.feed(ResumeRequest("e1", "r1", requested_by="ann"))


class TestSignals:
    def test_a_step_takes_the_signal_that_it_waits_for(self, play: Any) -> None:
        p = play({"w": SIGNAL}, outputs={"got": "${{ steps.w.output }}"})
        p.start()
        assert isinstance(p.events[-1], StepWaiting)
        assert signal(p, data={"paid": True})[:2] == (
            SignalReceived("s1", "go", Payload({"paid": True}), "someone"),
            StepCompleted("w", output=Payload({"paid": True}), signal="s1"),
        )
        assert p.state.output == Payload({"got": {"paid": True}})
        assert p.state.signals == ()

    def test_a_signal_that_comes_early_is_kept_and_taken_once(self, play: Any) -> None:
        p = play({"a": PY, "w": {"needs": ["a"], **SIGNAL}, "x": {"needs": ["w"], **SIGNAL}})
        p.start()
        signal(p, data="early")
        p.complete("a")
        assert (p.status("w"), p.status("x")) == ("completed", "waiting")
        assert p.state.step("w").work.output == Payload("early")

    def test_signals_are_taken_in_the_order_in_which_they_came(self, play: Any) -> None:
        p = play({"a": PY, "w": {"needs": ["a"], "for_each": [0, 1], **SIGNAL}})
        p.start()
        signal(p, data="first", signal_id="s1")
        signal(p, data="second", signal_id="s2")
        p.complete("a")
        assert p.state.step("w").work.output == Payload(["first", "second"])

    def test_the_same_signal_again_changes_nothing(self, play: Any) -> None:
        p = play({"w": SIGNAL, "x": {"needs": ["w"], **SIGNAL}})
        p.start()
        signal(p)
        assert signal(p) == ()
        assert p.status("x") == "waiting"

    def test_a_signal_of_another_name_is_kept(self, play: Any) -> None:
        p = play({"w": SIGNAL})
        p.start()
        signal(p, name="stop")
        assert p.status("w") == "waiting"

    def test_too_many_signals_change_nothing(self, play: Any) -> None:
        p = play({"w": SIGNAL})
        p.start()
        for number in range(SIGNALS_MAX):
            signal(p, name="other", signal_id=f"s{number}")
        assert signal(p, signal_id="one more") == ()

    @pytest.mark.parametrize(("default", "status", "output"), [({}, "timeout", None), ({"default": 7}, "completed", 7)])
    def test_the_time_of_a_signal_is_up(self, play: Any, default: Any, status: str, output: Any) -> None:
        p = play({"w": {"wait": {"signal": "go", "timeout": "10s", **default}}})
        p.start()
        p.fire_next_timer()
        assert (p.status("w"), p.state.step("w").work.output) == (status, Payload(output))


class TestApprovals:
    def test_somebody_approves(self, play: Any) -> None:
        p = play({"ok": ASK})
        p.start({"who": "Bob"})
        assert p.events[-1].input == Payload({"message": "Go, Bob?"})
        verdict(p, True, data=Payload({"amount": 3}))
        output = p.state.step("ok").work.output.data
        assert output == {
            "approved": True,
            "by": "ann",
            "at": "1970-01-01T00:16:40Z",
            "note": "fine",
            "decision_id": "v1",
            "data": {"amount": 3},
        }

    def test_a_large_form_stays_claim_checked(self, play: Any) -> None:
        p = play({"ok": ASK})
        p.start({"who": "Bob"})
        verdict(p, True, data=Payload({"text": None}, {"/text": BlobRef("f" * 64, 9)}))
        assert p.state.step("ok").work.output.refs == {"/data/text": BlobRef("f" * 64, 9)}

    def test_a_second_verdict_changes_nothing(self, play: Any) -> None:
        p = play({"ok": ASK, "a": PY})
        p.start({"who": "Bob"})
        verdict(p, True)
        assert verdict(p, False) == ()
        assert verdict(p, True, step="a") == ()
        assert verdict(p, True, step="nowhere") == ()

    @pytest.mark.parametrize(("on_reject", "status"), [("fail", "failed"), ("complete", "completed")])
    def test_somebody_rejects(self, play: Any, on_reject: str, status: str) -> None:
        p = play({"ok": {"approval": {"message": "?", "on_reject": on_reject}}})
        p.start()
        verdict(p, False)
        assert p.status("ok") == status
        if on_reject == "fail":
            assert (p.state.error.code, p.state.error.message) == ("approval_rejected", "ann rejected it: fine")

    @pytest.mark.parametrize(
        ("default", "status", "code"),
        [
            ("approve", "completed", None),
            ("reject", "failed", "approval_rejected"),
            ("fail", "timeout", "approval_timeout"),
        ],
    )
    def test_nobody_decides_in_time(self, play: Any, default: str, status: str, code: str | None) -> None:
        p = play({"ok": {"approval": {"message": "?", "deadline": "10s", "default": default}}})
        p.start()
        p.fire_next_timer()
        assert (p.status("ok"), p.state.error and p.state.error.code) == (status, code)

    def test_without_a_deadline_it_waits_as_long_as_the_execution_may_last(self, play: Any) -> None:
        p = play({"ok": {"approval": {"message": "?"}}})
        p.start()
        assert [one.fired.kind for one in p.commands if isinstance(one, Arm)] == ["execution_timeout"]


class TestPauses:
    def test_what_runs_may_finish_and_nothing_begins(self, play: Any) -> None:
        p = play({"a": PY, "b": {**PY, "needs": ["a"]}, "t": {"needs": ["a"], "transform": 1}})
        p.start()
        pause(p)
        p.complete("a")
        assert (p.status("a"), p.status("b"), p.status("t")) == ("completed", "pending", "pending")
        resume(p)
        assert (p.status("b"), p.status("t")) == ("running", "completed")

    def test_the_time_of_a_pause_does_not_count(self, play: Any) -> None:
        p = play({"a": PY, "ok": {"approval": {"message": "?"}}}, limits={"timeout": "100s"})
        p.start()
        (paused,) = pause(p)
        assert paused == ExecutionPaused(p.now + HELD_S_MAX, "p1", "look", "ann")
        p.now += 1_000
        (resumed,) = resume(p)
        assert resumed == ExecutionResumed(1_000.0 + 100 + 1_000, "r1", "ann")
        assert p.state.step("ok").work.due == p.state.deadline

    def test_what_runs_is_not_cut_off_at_the_deadline_that_the_pause_puts_off(self, play: Any) -> None:
        p = play({"a": PY}, limits={"timeout": "100s"})
        p.start()
        (run,) = [one for one in p.commands if isinstance(one, Run)]
        pause(p)
        p.now += 1_000
        resume(p)
        assert run.step.deadline > p.state.deadline

    def test_pausing_twice_and_resuming_what_runs_change_nothing(self, play: Any) -> None:
        p = play({"a": PY})
        p.start()
        assert resume(p) == ()
        pause(p)
        assert pause(p) == ()
        resume(p)
        assert pause(p) == ()

    def test_a_retry_that_is_due_waits_for_the_end_of_the_pause(self, play: Any) -> None:
        p = play({"a": {**PY, "retry": {"max_attempts": 2, "jitter": False}}})
        p.start()
        p.fail("a")
        pause(p)
        p.fire_next_timer()
        assert p.status("a") == "queued"
        resume(p)
        assert (p.status("a"), p.runs) == ("running", ["a", "a"])

    def test_a_cancel_ends_a_pause_and_cleanup_runs(self, play: Any) -> None:
        p = play({"a": PY, "tidy": {"needs": ["a"], "run": "always", "transform": 1}})
        p.start()
        pause(p)
        p.cancel()
        assert (p.outcome, p.status("tidy")) == ("cancelled", "completed")

    def test_a_failure_leaves_the_pause_so_that_somebody_may_look_before_cleanup_runs(self, play: Any) -> None:
        p = play({"a": PY, "tidy": {"needs": ["a"], "run": "always", "transform": 1}})
        p.start()
        pause(p)
        p.fail("a")
        assert p.status("tidy") == "pending"
        resume(p)
        assert (p.outcome, p.status("tidy")) == ("failed", "completed")

    def test_a_pause_that_nobody_ends_times_out(self, play: Any) -> None:
        p = play({"a": PY})
        p.start()
        pause(p)
        p.time_out()
        assert p.outcome == "timeout"


class TestGates:
    def test_gates_are_passed_in_order_before_anything_begins(self, play: Any) -> None:
        p = play(
            {"a": PY},
            inputs={"who": {}},
            concurrency={"limit": 2, "key": "${{ inputs.who }}"},
            throttle={"limit": 1, "per": "1m"},
            limits={"timeout": "100s"},
        )
        p.start({"who": "Bob"})
        held = p.events[-1]
        assert (type(held), held.rule, held.key) == (ExecutionHeld, "throttle", "")
        assert p.state.deadline == p.now + HELD_S_MAX
        p.now += 500
        p.feed(Admission("e1", held.gate, admitted=True))
        assert p.events[-2:] == [
            ExecutionAdmitted(held.gate),
            ExecutionHeld(p.state.gates[1].gate, "concurrency", "Bob"),
        ]
        p.feed(Admission("e1", p.state.gates[1].gate, admitted=True))
        assert (p.runs, p.state.deadline) == (["a"], p.now + 100)
        p.complete("a")
        assert [type(one) for one in p.commands[-3:]] == [Leave, Leave, Release]

    def test_one_that_is_turned_away_ends_without_having_begun(self, play: Any) -> None:
        p = play({"a": PY, "tidy": {"run": "always", **PY}}, singleton=True)
        p.start()
        p.feed(Admission("e1", p.state.gates[0].gate, admitted=False, reason="one runs"))
        assert (p.outcome, p.runs) == ("cancelled", [])
        assert p.state.error == ErrorInfo("concurrency_limit", "cancelled", "one runs")

    def test_what_another_gate_says_changes_nothing(self, play: Any) -> None:
        p = play({"a": PY}, singleton=True)
        p.start()
        assert p.feed(Admission("e1", "another", admitted=True)) == ()

    def test_whoever_takes_over_asks_the_gate_again(self, play: Any) -> None:
        p = play({"a": PY}, singleton=True)
        p.start()
        assert any(isinstance(one, Enter) for one in outstanding(p.plan, p.state))

    def test_a_cancel_at_a_gate_runs_no_cleanup(self, play: Any) -> None:
        p = play({"tidy": {"run": "always", **PY}}, singleton=True)
        p.start()
        p.cancel()
        assert (p.outcome, p.runs) == ("cancelled", [])

    def test_a_key_that_has_no_value_fails_the_execution(self, play: Any) -> None:
        p = play({"a": PY}, inputs={"who": {}}, concurrency={"limit": 2, "key": "${{ inputs.who.name }}"})
        p.start({"who": 1})
        assert (p.outcome, p.state.error.code) == ("failed", "expression_error")


class TestBreakpoints:
    def start(self, play: Any, steps: dict[str, Any], *breakpoints: str) -> Any:
        p = play(steps)
        p.feed(StartRequest("e1", "default", "wf-1", "wf", 3, "hash", p.now, breakpoints=breakpoints))
        return p

    def test_a_step_is_held_and_shows_its_input(self, play: Any) -> None:
        p = self.start(
            play, {"a": {"transform": 7}, "b": {**PY, "needs": ["a"], "input": {"x": "${{ steps.a.output }}"}}}, "b"
        )
        held = p.events[-1]
        assert (held.step, held.reason, held.input) == ("b", "breakpoint", Payload({"x": 7}))
        assert p.runs == []
        p.feed(ContinueRequest("e1", "c1", "b"))
        assert p.commands[-1].step.input == Payload({"x": 7})

    def test_another_input_may_be_given(self, play: Any) -> None:
        p = self.start(play, {"b": {**PY, "input": {"x": 1}}}, "*")
        p.feed(ContinueRequest("e1", "c1", "b", edited=True, input=Payload({"x": 2})))
        (run,) = [one for one in p.commands if isinstance(one, Run)]
        assert run.step.input == Payload({"x": 2})

    def test_a_transform_gives_what_was_put_in_its_place(self, play: Any) -> None:
        p = self.start(play, {"b": {"transform": 1}}, "b")
        p.feed(ContinueRequest("e1", "c1", "b", edited=True, input=Payload(2)))
        assert p.state.step("b").work.output == Payload(2)

    @pytest.mark.parametrize(
        ("step", "given", "said"),
        [
            ({"wait": {"delay": 5}}, {"edited": True}, "delay"),
            ({"wait": {"delay": 5}}, {"delay": "soon"}, "delay"),
            ({"wait": {"delay": 5}}, {"delay": -1}, "delay"),
            ({"wait": {"delay": 5}}, {"until": 7}, "RFC 3339"),
            ({"wait": {"delay": 5}}, 5, "mapping"),
            (SIGNAL, {"timeout": [1]}, "timeout"),
            (SIGNAL, None, "mapping"),
            ({"group": {"steps": {"a": PY}}}, [1], "mapping"),
            ({"plan": {"steps": {"a": PY}}}, 7, "mapping"),
            ({"plan": {"steps": {"a": PY}}}, {"plan": {"steps": {"a": PY}}, "input": [1]}, "mapping"),
        ],
    )
    def test_an_input_that_a_step_cannot_work_on_fails_the_step(
        self, play: Any, step: Any, given: Any, said: str
    ) -> None:
        p = self.start(play, {"b": step}, "b")
        p.feed(ContinueRequest("e1", "c1", "b", edited=True, input=Payload(given)))
        error = p.state.step("b").work.error
        assert (p.status("b"), error.code, said in error.message) == ("failed", "input_invalid", True)

    def test_secrets_stay_where_the_new_input_leaves_them(self, play: Any) -> None:
        headers = {"A": "Bearer ${{ secrets.token }}", "B": "${{ secrets.token }}"}
        step = {"http": {"url": "https://x.example", "headers": headers}}
        p = play({"b": step}, secrets=["token"])
        p.feed(StartRequest("e1", "default", "wf-1", "wf", 3, "hash", p.now, breakpoints=("b",)))
        edited = {"method": "GET", "url": "https://y.example", "headers": {"A": None, "B": "own"}}
        p.feed(ContinueRequest("e1", "c1", "b", edited=True, input=Payload(edited)))
        (run,) = [one for one in p.commands if isinstance(one, Run)]
        assert run.step.secrets == {"/headers/A": ("Bearer ", "token", "")}

    def test_a_list_is_held_as_a_whole(self, play: Any) -> None:
        p = self.start(play, {"b": {**PY, "for_each": [1, 2, 3]}}, "b")
        assert p.events[-1].input == Payload({"items": 3})
        p.feed(ContinueRequest("e1", "c1", "b"))
        assert p.runs == ["b~0", "b~1", "b~2"]

    def test_going_on_where_nothing_is_held_changes_nothing(self, play: Any) -> None:
        p = self.start(play, {"a": PY, "b": PY}, "b")
        assert p.feed(ContinueRequest("e1", "c1", "a")) == ()
        assert p.feed(ContinueRequest("e1", "c1", "nowhere")) == ()
        p.feed(ContinueRequest("e1", "c1", "b"))
        assert p.feed(ContinueRequest("e1", "c1", "b")) == ()

    def test_a_paused_execution_does_not_go_on(self, play: Any) -> None:
        p = self.start(play, {"b": PY}, "b")
        pause(p)
        assert p.feed(ContinueRequest("e1", "c1", "b")) == ()

    def test_a_retry_is_not_held_again(self, play: Any) -> None:
        p = self.start(play, {"b": {**PY, "retry": {"max_attempts": 2, "jitter": False}}}, "b")
        p.feed(ContinueRequest("e1", "c1", "b"))
        p.fail("b")
        p.fire_next_timer()
        assert p.status("b") == "running"


def test_what_is_more_than_a_share_goes_behind_others_within_one_decision(play: Any) -> None:
    p = play({"many": {**PY, "for_each": list(range(100))}})
    p.start()
    crowded = [one.crowded for one in p.commands if isinstance(one, Run)]
    assert crowded == [False] * 64 + [True] * 36
