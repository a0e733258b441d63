"""Deadlines that move, by pauses, gates and the ending, and the waits that move with them or do not."""

from __future__ import annotations

from typing import Any

import pytest

from millrace_orchestrator.domain.commands import Arm, outstanding
from millrace_shared.messages import Admission, PauseRequest, ResumeRequest, SignalRequest, StartRequest, TimerFired
from millrace_shared.values import Payload

PY = {"python": "m:f"}
GATE = {"concurrency": {"limit": 1}, "limits": {"timeout": 60}}


def pause(play: Any, pause_id: str = "p1") -> Any:
    return play.feed(PauseRequest("e1", pause_id))


def resume(play: Any) -> Any:
    return play.feed(ResumeRequest("e1", "r1"))


def dues(play: Any, step: str) -> list[float]:
    """When the timers of a step are due: those that were armed, and those that a takeover would arm."""
    armed = [one for one in play.commands if isinstance(one, Arm) and one.fired.step == step]
    again = [one for one in outstanding(play.plan, play.state) if isinstance(one, Arm) and one.fired.step == step]
    assert all(one in armed for one in again), "a takeover would arm what nobody has armed"
    return [one.due for one in again]


class TestPauses:
    def test_a_retry_that_was_to_come_after_the_old_deadline_comes_when_it_is_due(self, play: Any) -> None:
        p = play({"a": {**PY, "retry": {"initial": 10, "jitter": False, "max_attempts": 2}}}, limits={"timeout": 60})
        p.start()
        p.now = 1_055.0
        pause(p)
        p.now = 1_058.0
        p.fail("a")
        p.now = 1_100.0
        resume(p)
        assert dues(p, "a") == [1_068.0]

    def test_a_signal_s_own_time_that_was_longer_than_the_execution_s_is_kept(self, play: Any) -> None:
        p = play({"w": {"wait": {"signal": "go", "timeout": 90, "default": 0}}}, limits={"timeout": 60})
        p.start()
        pause(p)
        p.now = 1_050.0
        resume(p)
        assert (p.state.deadline, dues(p, "w")) == (1_110.0, [1_090.0])

    @pytest.mark.parametrize("step", [{"approval": {"message": "?"}}, {"wait": {"signal": "go"}}])
    def test_what_waits_as_long_as_the_execution_may_last_goes_on_doing_so(self, play: Any, step: Any) -> None:
        p = play({"w": step}, limits={"timeout": 60})
        p.start()
        pause(p)
        p.now = 1_050.0
        resume(p)
        assert (p.state.deadline, p.state.step("w").work.due, dues(p, "w")) == (1_110.0, 1_110.0, [])

    def test_cleanup_after_a_failure_in_a_pause_has_its_whole_time(self, play: Any) -> None:
        p = play({"a": PY, "c": {"needs": ["a"], "run": "always", **PY}}, limits={"timeout": 60})
        p.start()
        p.now = 1_059.0
        pause(p)
        p.now = 1_061.0
        p.fail("a")
        p.now = 1_100.0
        resume(p)
        assert (p.status("c"), p.state.deadline) == ("running", 1_160.0)

    def test_a_pause_that_is_over_does_not_come_back_when_it_is_delivered_again(self, play: Any) -> None:
        p = play({"a": PY})
        p.start()
        for pause_id in ("p1", "p2"):
            pause(p, pause_id)
            resume(p)
        assert pause(p, "p1") == ()


class TestTheEnding:
    def test_waits_that_end_before_the_new_deadline_are_armed(self, play: Any) -> None:
        wait = {"needs": ["a"], "run": "always", "wait": {"delay": 75}}
        p = play({"a": PY, "b": PY, "w": wait}, limits={"timeout": 60})
        p.start()
        p.complete("a")
        assert dues(p, "w") == []  # it would end after the execution
        p.now = 1_030.0
        p.fail("b")
        assert (p.state.deadline, dues(p, "w")) == (1_090.0, [1_075.0])

    def test_what_waits_as_long_as_the_execution_may_last_waits_as_long_as_cleanup_may(self, play: Any) -> None:
        ask = {"needs": ["a"], "run": "always", "approval": {"message": "?", "default": "approve"}}
        p = play({"a": PY, "b": PY, "ok": ask}, limits={"timeout": 60})
        p.start()
        p.complete("a")
        p.now = 1_030.0
        p.fail("b")
        assert (p.state.deadline, p.state.step("ok").work.due, dues(p, "ok")) == (1_090.0, 1_090.0, [])


class TestGates:
    def admit(self, play: Any) -> Any:
        return play.feed(Admission("e1", play.state.gates[-1].gate, admitted=True))

    def test_one_that_is_admitted_in_a_pause_keeps_its_time_for_when_it_goes_on(self, play: Any) -> None:
        p = play({"a": PY}, **GATE)
        p.start()
        p.now = 1_500.0
        pause(p)
        p.now = 2_000.0
        self.admit(p)
        p.now = 3_000.0
        assert p.feed(TimerFired("e1", "execution_timeout")) == ()
        resume(p)
        assert (p.status("a"), p.state.deadline) == ("running", 3_060.0)

    def test_a_child_whose_parent_was_paused_meanwhile_has_the_time_that_this_gave_it(self, play: Any) -> None:
        p = play({"a": PY}, **GATE)
        p.feed(StartRequest("e1", "default", "wf-1", "wf", 3, "hash", p.now, input=Payload({}), deadline=1_040.0))
        pause(p)
        p.now = 2_000.0
        resume(p)
        self.admit(p)
        assert p.state.deadline == 2_040.0


def test_signals_are_taken_while_paused(play: Any) -> None:
    p = play({"w": {"wait": {"signal": "go"}}, "a": {"needs": ["w"], **PY}})
    p.start()
    pause(p)
    p.feed(SignalRequest("e1", "s1", "go", Payload(1)))
    assert (p.status("w"), p.status("a")) == ("completed", "pending")
    resume(p)
    assert p.status("a") == "running"
