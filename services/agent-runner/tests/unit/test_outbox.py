import asyncio
from typing import Any

import pytest

from millrace_agent_runner.adapters import outbox as module
from millrace_agent_runner.adapters.outbox import Outbox
from millrace_shared.bus.errors import BusRefused, StreamMissing
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.errors import BusUnavailable


class Scripted:
    """A publisher that answers as it is told, then accepts all."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.groups: list[list[str]] = []

    async def publish_all(self, messages: Any) -> list[Any]:
        await asyncio.sleep(0)
        self.groups.append([message.subject for message in messages])
        answer = self.answers.pop(0) if self.answers else 1
        return [answer] * len(messages)


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST_S", 0.0)


async def settled(outbox: Outbox, *subjects: str) -> list[Any]:
    seen: list[Any] = []
    for subject in subjects:
        assert outbox.put(Outgoing(subject, b"12"), seen.append)
    assert await outbox.drain(5.0)
    return seen


async def test_what_comes_while_a_group_is_on_its_way_makes_the_next_group() -> None:
    publisher = Scripted()
    outbox = Outbox(publisher, "test", group_max=3)  # type: ignore[arg-type]
    assert await settled(outbox, *"abcdefg") == [None] * 7
    assert publisher.groups == [["a", "b", "c"], ["d", "e", "f"], ["g"]]
    assert (outbox.waiting, outbox.size_bytes) == (0, 0)


@pytest.mark.parametrize("answer", [BusUnavailable("away"), StreamMissing("starting"), BusRefused("no leader")])
async def test_what_is_not_taken_is_offered_again_in_order(answer: Any) -> None:
    publisher = Scripted(answer, answer)
    assert await settled(Outbox(publisher, "test"), "a", "b") == [None, None]  # type: ignore[arg-type]
    assert publisher.groups == [["a", "b"]] * 3


async def test_what_is_refused_for_good_is_given_up_with_the_reason() -> None:
    refusal = BusRefused("too large")
    publisher = Scripted(*[refusal] * (module.REFUSALS_MAX + 1))
    assert await settled(Outbox(publisher, "test"), "a") == [refusal]  # type: ignore[arg-type]


async def test_more_than_may_wait_is_given_up() -> None:
    outbox = Outbox(Scripted(), "test", waiting_max=2)  # type: ignore[arg-type]
    assert [outbox.put(Outgoing("a", b"")) for _ in range(3)] == [True, True, False]
    await outbox.drain(5.0)


async def test_a_drain_ends_although_the_bus_does_not_answer() -> None:
    class Silent:
        async def publish_all(self, _: Any) -> Any:
            await asyncio.Event().wait()

    outbox = Outbox(Silent(), "test")  # type: ignore[arg-type]
    outbox.put(Outgoing("a", b"12"))
    assert not await outbox.drain(0.01)
    assert outbox.waiting == 1
