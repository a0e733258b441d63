"""Who gets the slots, on a real server: urgent before other work, nobody starved, and a crowd behind everybody."""

import asyncio
from typing import Any

import pytest

from millrace_agent_runner.adapters import intake
from millrace_agent_runner.domain.credit import STANDING, crowded_max
from millrace_shared import subjects
from millrace_shared.bus.pull import Delivery, PullLoop
from millrace_shared.bus.streams import work_consumer_name
from millrace_shared.lanes import LANES, LANES_CROWDED
from millrace_shared.messages import WORK_KINDS

ECHO = {"call": "echo"}


class Gated:
    """An executor that notes what it begins, and ends nothing before it is told to."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.begun: list[str] = []
        self.gate = asyncio.Event()
        if is_open:
            self.gate.set()

    async def __call__(self, attempt: Any) -> None:
        self.begun.append(attempt.step.step)
        await self.gate.wait()


@pytest.mark.parametrize("lane", LANES_CROWDED)
async def test_crowded_work_that_is_announced_begins_at_once(
    bus: Any, start_worker: Any, step_factory: Any, monkeypatch: pytest.MonkeyPatch, lane: Any
) -> None:
    monkeypatch.setattr(intake, "LOOK_S", 3600.0)
    await start_worker()
    await bus.has("INBOX", 0)
    for kind in WORK_KINDS:
        step = step_factory(kind, ECHO, {"input": kind})
        await bus.offer(step, lane=lane)
        bus.connection.send(subjects.crowded_control(kind, lane), b"")
        assert (await bus.result_of(step)).output.data == kind
    await bus.has("WORK", 0)


async def test_crowded_work_that_nobody_announced_is_found(bus: Any, start_worker: Any, step_factory: Any) -> None:
    before = step_factory("python", ECHO, {"input": "before the start"})
    await bus.offer(before, lane="low-crowded")
    await start_worker()
    assert (await bus.result_of(before)).output.data == "before the start"
    after = step_factory("python", ECHO, {"input": "after it"})
    await bus.offer(after, lane="normal-crowded")
    assert (await bus.result_of(after)).output.data == "after it"


@pytest.mark.parametrize("lane", ["normal", "normal-crowded"])
async def test_what_a_dead_runner_had_is_taken_over_all_at_once(
    bus: Any, start_worker: Any, step_factory: Any, monkeypatch: pytest.MonkeyPatch, lane: Any
) -> None:
    """The server does not count what it delivers again among what waits, so one look must lead to all of it."""
    monkeypatch.setattr(intake, "LOOK_S", 3600.0)
    count = 20
    await bus.offer(*(step_factory("python", step=f"s{number}") for number in range(count)), lane=lane)
    held: list[Delivery] = []
    loop = PullLoop(bus.connection, "WORK", work_consumer_name("python", lane), held.append, capacity=count)
    await loop.start()

    async def all_held() -> bool:
        return len(held) == count

    await bus.eventually(all_held, "all of it for the runner that dies")
    await loop.stop()
    for delivery in held:
        delivery.nak()
    executor = Gated()
    await start_worker(executor, slots=STANDING + 2 * count)

    async def all_begun() -> bool:
        return len(executor.begun) == count

    await bus.eventually(all_begun, "all of it for the one that takes over")
    executor.gate.set()
    await bus.has("WORK", 0)


async def test_an_announcement_that_means_nothing_here_does_no_harm(
    bus: Any, start_worker: Any, step_factory: Any
) -> None:
    await start_worker()
    for kind, lane in (("python", "normal"), ("wasm", "high-crowded"), ("python", "higher")):
        bus.connection.send(subjects.crowded_control(kind, lane), b"")
    step = step_factory("python", ECHO, {"input": 1})
    await bus.offer(step)
    assert (await bus.result_of(step)).output.data == 1


async def test_a_crowd_leaves_an_eighth_of_the_slots_to_others(bus: Any, start_worker: Any, step_factory: Any) -> None:
    slots, executor = 80, Gated()
    for number in range(100):
        await bus.offer(step_factory("python", step="crowd"), lane=LANES_CROWDED[number % 3])
    worker = await start_worker(executor, slots=slots)

    async def full() -> bool:
        return executor.begun.count("crowd") >= crowded_max(slots)

    await bus.eventually(full, "all that crowded work may hold")
    await bus.offer(*(step_factory("python", step="newcomer") for _ in range(slots - crowded_max(slots) - STANDING)))

    async def newcomers() -> bool:
        return "newcomer" in executor.begun

    await bus.eventually(newcomers, "a slot for somebody else")
    assert executor.begun.count("crowd") == crowded_max(slots)
    assert worker.committed <= slots
    executor.gate.set()
    await bus.has("WORK", 0)


async def test_nobody_is_starved_by_a_flood_of_urgent_work(bus: Any, start_worker: Any, step_factory: Any) -> None:
    executor = Gated(is_open=True)
    await bus.offer(*(step_factory("python", step="urgent") for _ in range(400)), lane="high")
    for lane in LANES[1:]:
        await bus.offer(*(step_factory("python", step=lane) for _ in range(5)), lane=lane)
    await start_worker(executor, slots=12)
    await bus.has("WORK", 0)
    total = len(executor.begun)
    for lane in LANES[1:]:
        last = total - executor.begun[::-1].index(lane)
        assert executor.begun.count(lane) == 5
        assert last < 0.9 * total, f"{lane} came last: at {last} of {total}"


async def test_places_that_others_were_faster_to_fill_are_free_again(
    bus: Any, start_worker: Any, step_factory: Any
) -> None:
    workers = [await start_worker(Gated(is_open=True), slots=20) for _ in range(3)]
    for number in range(300):
        kind, lane = WORK_KINDS[number % 3], LANES[number % len(LANES)]
        await bus.offer(step_factory(kind), lane=lane)
        bus.connection.send(subjects.crowded_control(kind, lane), b"")
    await bus.has("WORK", 0)
    assert await bus.count("INBOX") == 300
    for worker in workers:

        async def at_rest(one: Any = worker) -> bool:
            return bool(one.committed == STANDING)

        await bus.eventually(at_rest, "nothing but standing requests")
    assert sum(one["num_redelivered"] for one in await bus.consumers()) == 0


async def test_a_draw_that_is_never_answered_is_given_up(bus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from millrace_agent_runner.adapters import draws

    ended: list[tuple[int, bool]] = []

    def nothing(_index: int, _delivery: Delivery) -> None:
        raise AssertionError("nothing was there to be delivered")

    one = draws.Draws(bus.connection, ["a", "b"], lambda _: 0, nothing, lambda *end: ended.append(end))
    assert one.draw(1, 3)  # nobody listens for an answer
    one.forget_lost()
    assert (one.asked, ended) == ([0, 3], [])
    monkeypatch.setattr(draws, "ANSWER_S_MAX", -1.0)
    one.forget_lost()
    assert (one.asked, ended) == ([0, 0], [(1, True)])
