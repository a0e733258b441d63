import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.embedded.errors import ProcessStartError, UnknownProcessError
from millrace.embedded.events import EventKind
from millrace.embedded.identity import started_at
from millrace.embedded.keeper import Backoff
from millrace.embedded.process import ProcessSpec
from millrace.embedded.supervisor import Supervisor

Worker = Callable[..., ProcessSpec]
Gone = Callable[[int], None]
QUICK = Backoff(initial_s=0.01, max_s=0.05)


@pytest.fixture
async def supervisor(tmp_path: Path, story: Any) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(tmp_path / "logs", listeners=[story], backoff=QUICK)
    yield supervisor
    supervisor.hurry()
    await supervisor.stop()


async def test_stages_start_in_order_and_stop_in_reverse(supervisor: Supervisor, worker: Worker, story: Any):
    await supervisor.start([worker("first")])
    await supervisor.start([worker("second")])
    assert story.told(EventKind.READY) == [("first", EventKind.READY), ("second", EventKind.READY)]
    assert supervisor.names == ["first", "second"]
    await supervisor.stop()
    assert story.told(EventKind.STOPPED) == [("second", EventKind.STOPPED), ("first", EventKind.STOPPED)]
    assert supervisor.names == []


async def test_a_killed_process_comes_back_and_everyone_hears_of_it(supervisor: Supervisor, worker: Worker, story: Any):
    await supervisor.start([worker()])
    killed = supervisor.kill("worker")
    assert not supervisor.is_ready("worker")
    await supervisor.wait_ready("worker")
    assert supervisor.pid("worker") not in (None, killed)
    assert supervisor.restarts("worker") == 1
    assert [kind for _, kind in story.told()] == [
        EventKind.STARTED,
        EventKind.READY,
        EventKind.DIED,
        EventKind.RESTARTING,
        EventKind.STARTED,
        EventKind.READY,
    ]
    died = next(event for event in story.events if event.kind is EventKind.DIED)
    assert (died.pid, died.detail) == (killed, "killed by SIGKILL")


async def test_a_restart_that_fails_is_tried_again_until_it_works(
    supervisor: Supervisor, worker: Worker, story: Any, tmp_path: Path
):
    await supervisor.start([worker()])
    (tmp_path / "worker" / "broken").touch()
    supervisor.kill("worker")
    failed = await story.until(EventKind.FAILED, times=3)
    assert "exited with code 3" in failed[0].detail
    assert "the worker is broken" in failed[0].detail
    waits = [event.detail for event in story.events if event.kind is EventKind.RESTARTING]
    assert waits[:3] == [
        "in 0.01 s (failure 1 in a row)",
        "in 0.02 s (failure 2 in a row)",
        "in 0.04 s (failure 3 in a row)",
    ]
    (tmp_path / "worker" / "broken").unlink()
    await supervisor.wait_ready("worker")
    assert supervisor.restarts("worker") == 1


async def test_a_process_that_was_up_long_enough_starts_again_from_the_first_delay(
    worker: Worker, story: Any, tmp_path: Path
):
    at_once_stable = Backoff(initial_s=0.01, stable_after_s=0.0)
    supervisor = Supervisor(tmp_path / "logs", listeners=[story], backoff=at_once_stable)
    try:
        await supervisor.start([worker()])
        for times in (1, 2, 3):
            supervisor.kill("worker")
            await story.until(EventKind.READY, times=times + 1)
    finally:
        await supervisor.stop()
    waits = [event.detail for event in story.events if event.kind is EventKind.RESTARTING]
    assert waits == ["in 0.01 s (failure 1 in a row)"] * 3


async def test_quick_deaths_wait_longer_each_time(supervisor: Supervisor, worker: Worker, story: Any):
    await supervisor.start([worker()])
    for times in (1, 2):
        supervisor.kill("worker")
        await story.until(EventKind.READY, times=times + 1)
    waits = [event.detail for event in story.events if event.kind is EventKind.RESTARTING]
    assert waits == ["in 0.01 s (failure 1 in a row)", "in 0.02 s (failure 2 in a row)"]


async def test_a_first_start_that_fails_says_why_with_the_last_lines_of_the_log(
    supervisor: Supervisor, worker: Worker, tmp_path: Path, gone: Gone
):
    healthy, broken = worker("healthy"), worker("broken-one")
    (tmp_path / "broken-one" / "broken").touch()
    await supervisor.start([healthy])
    with pytest.raises(ProcessStartError, match=r"broken-one exited with code 3(?s:.*)the worker is broken"):
        await supervisor.start([broken])
    pid = supervisor.pid("healthy")
    await supervisor.stop()
    assert pid is not None
    gone(pid)


async def test_a_process_that_does_not_become_ready_is_ended(
    supervisor: Supervisor, worker: Worker, story: Any, gone: Gone
):
    with pytest.raises(ProcessStartError, match=r"was not ready within 0\.3 s"):
        await supervisor.start([worker("mute", "mute", ready_s=0.3)])
    assert supervisor.pid("mute") is None
    gone(story.events[0].pid)


async def test_a_start_that_is_cancelled_leaves_nothing(supervisor: Supervisor, worker: Worker, story: Any, gone: Gone):
    start = asyncio.create_task(supervisor.start([worker("mute", "mute")]))
    [started] = await story.until(EventKind.STARTED)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await supervisor.stop()
    gone(started.pid)


async def test_a_stop_during_a_backoff_ends_the_waiting(worker: Worker, story: Any, tmp_path: Path):
    patient = Backoff(initial_s=3600, max_s=3600)
    supervisor = Supervisor(tmp_path / "logs", listeners=[story], backoff=patient)
    await supervisor.start([worker()])
    supervisor.kill("worker")
    await story.until(EventKind.RESTARTING)
    async with asyncio.timeout(60):
        await supervisor.stop()


async def test_a_process_that_ignores_the_stop_signal_is_killed_after_its_grace(
    supervisor: Supervisor, worker: Worker, story: Any
):
    await supervisor.start([worker("stubborn", "stubborn", grace_s=0.1)])
    await supervisor.stop()
    assert story.events[-1].detail == "killed by SIGKILL"


async def test_hurrying_cuts_a_grace_short(supervisor: Supervisor, worker: Worker, story: Any):
    await supervisor.start([worker("stubborn", "stubborn", grace_s=3600)])
    stop = asyncio.create_task(supervisor.stop())
    supervisor.hurry()
    async with asyncio.timeout(60):
        await stop
    assert story.events[-1].detail == "killed by SIGKILL"


async def test_a_clean_stop_is_clean(supervisor: Supervisor, worker: Worker, story: Any):
    await supervisor.start([worker()])
    await supervisor.stop()
    assert story.events[-1].detail == "exited with code 0"


async def test_a_paused_process_stops_cleanly(supervisor: Supervisor, worker: Worker, story: Any):
    await supervisor.start([worker()])
    supervisor.kill("worker", signal.SIGSTOP)
    assert supervisor.is_ready("worker")
    await supervisor.stop()
    assert story.events[-1].detail == "exited with code 0"


async def test_what_a_process_started_ends_with_it(supervisor: Supervisor, worker: Worker, tmp_path: Path, gone: Gone):
    await supervisor.start([worker("parent", "parent")])
    first = int((tmp_path / "parent" / "child").read_text())
    assert started_at(first) is not None
    supervisor.kill("parent")
    await supervisor.wait_ready("parent")
    gone(first)
    second = int((tmp_path / "parent" / "child").read_text())
    assert second != first
    await supervisor.stop()
    gone(second)


async def test_a_restart_on_request_is_clean_and_counts(supervisor: Supervisor, worker: Worker, story: Any):
    await supervisor.start([worker()])
    before = supervisor.pid("worker")
    await supervisor.restart("worker")
    assert supervisor.is_ready("worker")
    assert supervisor.pid("worker") != before
    assert supervisor.restarts("worker") == 1
    assert story.told(EventKind.DIED) == []
    supervisor.kill("worker")
    await supervisor.wait_ready("worker")
    assert supervisor.restarts("worker") == 2


async def test_waiting_for_readiness_has_a_deadline(supervisor: Supervisor, worker: Worker, tmp_path: Path):
    await supervisor.start([worker()])
    (tmp_path / "worker" / "broken").touch()
    supervisor.kill("worker")
    with pytest.raises(TimeoutError, match=r"worker is not ready after 0\.05 s"):
        await supervisor.wait_ready("worker", 0.05)


async def test_an_unknown_name_is_answered_with_the_known_ones(supervisor: Supervisor, worker: Worker):
    await supervisor.start([worker()])
    with pytest.raises(UnknownProcessError, match='no process "wroker"; the stack runs: worker'):
        supervisor.pid("wroker")


async def test_output_goes_to_the_log(supervisor: Supervisor, worker: Worker):
    await supervisor.start([worker()])
    log = supervisor.log_path("worker")
    assert log.read_text() == "a line of the worker\n"
    assert log.stat().st_mode & 0o777 == 0o600


@given(failures=st.integers(min_value=1, max_value=10**6))
def test_a_backoff_never_shrinks_and_never_exceeds_its_maximum(failures: int):
    backoff = Backoff()
    assert backoff.initial_s <= backoff.delay_s(failures) <= backoff.delay_s(failures + 1) <= backoff.max_s
