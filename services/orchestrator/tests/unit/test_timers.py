"""Short timers against a model, with a clock and a loop of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_orchestrator.adapters import timers
from millrace_orchestrator.adapters.timers import ShortTimers, long_timer_id, long_timer_ids
from millrace_shared.ids import attempt_key
from millrace_shared.messages import TimerFired

COMPACT_FROM = 4


@dataclass
class Clock:
    """Stands in for `time` and for the event loop: holds at most one call that is due later."""

    now: float = 100.0
    due: float = 0.0
    call: Callable[[], None] | None = None
    cancelled: int = field(default=0)

    def time(self) -> float:
        return self.now

    def get_running_loop(self) -> Clock:
        return self

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Clock:
        assert delay_s >= 0
        assert self.call is None, "two calls at once"
        self.due, self.call = self.now + delay_s, call
        return self

    def cancel(self) -> None:
        self.call = None

    def run(self) -> None:
        """Make the call when it is due, as often as another one is due at once."""
        while self.call is not None and self.due <= self.now:
            call, self.call = self.call, None
            call()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timers, "time", clock)
    monkeypatch.setattr(timers, "asyncio", clock)
    return clock


def timer(execution: int, attempt: int = 1, kind: Any = "retry") -> TimerFired:
    return TimerFired(f"e{execution}", kind, "a", None, attempt)


def test_they_fire_in_order_of_their_time_and_only_once(clock: Clock) -> None:
    fired: list[TimerFired] = []
    short = ShortTimers(fired.append)
    for due, execution in ((103.0, 3), (101.0, 1), (102.0, 2), (101.0, 4)):
        short.arm(due, timer(execution))
    clock.run()
    assert fired == []
    clock.now = 102.5
    clock.run()
    assert fired == [timer(1), timer(4), timer(2)]
    clock.now = 200.0
    clock.run()
    assert fired[3:] == [timer(3)]
    assert clock.call is None


@pytest.mark.parametrize("later", [110.0, 101.0])
def test_arming_again_moves_it(clock: Clock, later: float) -> None:
    fired: list[TimerFired] = []
    short = ShortTimers(fired.append)
    short.arm(105.0, timer(1))
    short.arm(later, timer(1))
    clock.now = later - 0.5
    clock.run()
    assert fired == []
    clock.now = 120.0
    clock.run()
    assert fired == [timer(1)]


def test_nothing_fires_after_stop(clock: Clock) -> None:
    fired: list[TimerFired] = []
    short = ShortTimers(fired.append)
    short.arm(101.0, timer(1))
    short.stop()
    clock.now = 102.0
    clock.run()
    assert fired == []


def test_long_timers_of_an_attempt_can_be_told_from_its_key() -> None:
    key = attempt_key("a", 3, 2)
    assert {long_timer_id(TimerFired("e1", kind, "a", 3, 2)) for kind in ("retry", "wait")} == set(long_timer_ids(key))


Operation = tuple[str, int, int, float]
operations = st.lists(
    st.tuples(
        st.sampled_from(("arm", "arm", "arm", "forget", "pass")),
        st.integers(0, 3),
        st.integers(1, 3),
        st.integers(-2, 20).map(float),
    ),
    max_size=60,
)


@given(operations)
def test_they_agree_with_a_model(history: list[Operation]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(timers, "time", clock)
        patch.setattr(timers, "asyncio", clock)
        patch.setattr(timers, "COMPACT_FROM", COMPACT_FROM)
        fired: list[TimerFired] = []
        short = ShortTimers(fired.append)
        model: dict[TimerFired, float] = {}
        for name, execution, attempt, seconds in history:
            match name:
                case "arm":
                    model[timer(execution, attempt)] = clock.now + seconds
                    short.arm(clock.now + seconds, timer(execution, attempt))
                case "forget":
                    model = {one: due for one, due in model.items() if one.execution_id != f"e{execution}"}
                    short.forget(f"e{execution}")
                    assert len(short._heap) <= max(COMPACT_FROM, 2 * len(model))
                case "pass":
                    clock.now += max(seconds, 0.0)
            fired.clear()
            clock.run()
            due_now = {one: due for one, due in model.items() if due <= clock.now}
            assert sorted(map(repr, fired)) == sorted(map(repr, due_now))
            assert [due_now[one] for one in fired] == sorted(due_now.values())
            model = {one: due for one, due in model.items() if one not in due_now}
            assert {key[0] for key in short._armed} == {one.execution_id for one in model} == set(short._of_execution)
            assert (clock.call is None) <= (not model), "something is armed, and nobody waits for it"
