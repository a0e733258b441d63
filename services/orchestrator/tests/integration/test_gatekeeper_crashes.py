"""Gatekeepers that die at the worst moments, on a real server: what they have decided is said, and nobody is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from millrace_orchestrator.adapters.gatekeeper import Gatekeeper
from millrace_orchestrator.domain.gates import Enter, Gate, Leave
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.log_reader import read_last
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.errors import BusUnavailable
from millrace_shared.gates import decode_gate, decode_ticket
from millrace_shared.ids import new_id
from millrace_shared.messages import LOG_VERSION, CancelRequest, ExecutionFinished, Transition


def gate(rule: Any = "concurrency", gate_id: str = "", **terms: Any) -> Gate:
    return Gate(gate_id or new_id(), rule, "k", **terms)


def names(count: int) -> list[str]:
    return [new_id() for _ in range(count)]


def enter(one: Gate, *execution_ids: str) -> list[Enter]:
    return [Enter(one, execution_id) for execution_id in execution_ids]


def leave(one: Gate, *execution_ids: str) -> list[Leave]:
    return [Leave(one, execution_id) for execution_id in execution_ids]


async def end(bus: Any, execution_id: str) -> None:
    """Write the end into an execution's log, and tell nobody."""
    transition = Transition(LOG_VERSION, execution_id, 1, 1.0, (ExecutionFinished("completed"),))
    await bus.publisher.publish(Outgoing(subjects.log(execution_id), encode(transition)))


class Dying(Publisher):
    """A publisher of a process that dies: at the chosen publishes, before or after they reach the server."""

    def __init__(self, connection: Connection, dies: Callable[[str], str]) -> None:
        super().__init__(connection)
        self._dies = dies

    async def publish_all(self, messages: Any, timeout_s: float = 5.0) -> Any:
        dies = self._dies(messages[0].subject.split(".")[0]) if messages else ""
        if dies == "before":
            raise BusUnavailable("died before")
        results = await super().publish_all(messages, timeout_s)
        if dies == "after":
            raise BusUnavailable("died after")
        return results


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("stream", ["gate", "in"])
async def test_what_a_dead_keeper_has_decided_is_told_by_the_next(
    new_keeper: Any, keeper: Gatekeeper, bus: Any, inbox: Any, stream: str, moment: str
):
    one, (a, b, c) = gate(limit=1), names(3)
    await keeper.enter(enter(one, a, b))
    dying = await new_keeper(await Dying(bus.connection, lambda at: moment if at == stream else "").start())
    with pytest.raises(BusUnavailable):
        await dying.leave(leave(one, a))
    await keeper.leave(leave(one, a))  # its lease has come again, and so has what follows from it
    assert await inbox.admitted() == [a, b]
    await keeper.enter(enter(one, c))
    await keeper.leave(leave(one, b))
    assert await inbox.admitted() == [a, b, c]


async def test_another_s_last_words_are_said_before_they_are_overwritten(
    new_keeper: Any, keeper: Gatekeeper, bus: Any, inbox: Any
):
    one, (a, b) = gate(limit=2), names(2)
    dying = await new_keeper(await Dying(bus.connection, lambda at: "before" if at == "in" else "").start())
    with pytest.raises(BusUnavailable):
        await dying.enter(enter(one, a))
    await keeper.enter(enter(one, b))  # nobody asks for a again
    assert await inbox.admitted() == [a, b]
    ticket = await read_last(bus.connection, "GATES", subjects.gate_ticket(one.id, a))
    assert ticket is not None
    assert decode_ticket(ticket.payload).verdict == "admitted"


class Crowd:
    """Executions that come to one gate, run a while and end, by two processes that die and are replaced."""

    def __init__(self, bus: Any, one: Gate, ids: list[str], seed: int) -> None:
        self.bus = bus
        self.gate = one
        self.rng = random.Random(seed)
        self.owner = {execution_id: self.rng.randrange(2) for execution_id in ids}
        self.held: set[str] = set()
        self.running: set[str] = set()
        self.ended: set[str] = set()
        self.released: set[str] = set()
        self.verdicts: dict[str, bool] = {}
        self.most = 0
        self.crashes = 0
        self.connections: list[Connection] = []
        self.keepers: list[Gatekeeper] = []
        self.is_calm = False

    def dies(self, _stream: str) -> str:
        if self.is_calm or self.rng.random() > 0.12:
            return ""
        return self.rng.choice(("before", "after"))

    async def start(self, url: str) -> None:
        for _ in range(2):
            self.connections.append(await connect(url, "keeper"))
            self.keepers.append(await self.keeper(self.connections[-1]))

    async def keeper(self, connection: Connection) -> Gatekeeper:
        return Gatekeeper(connection, await Dying(connection, self.dies).start())

    async def stop(self) -> None:
        for one in self.keepers:
            await one.stop()
        for connection in self.connections:
            await connection.close()

    async def hear(self, inbox: Any) -> None:
        for message in await inbox.read():
            execution_id = message.execution_id
            if isinstance(message, CancelRequest) or execution_id in self.verdicts:
                continue
            self.verdicts[execution_id] = message.admitted
            self.held.discard(execution_id)
            if message.admitted:
                self.running.add(execution_id)
                self.most = max(self.most, len(self.running))
            else:
                await self.end(execution_id)

    async def end(self, execution_id: str) -> None:
        self.running.discard(execution_id)
        self.ended.add(execution_id)
        await end(self.bus, execution_id)

    async def act(self, index: int, coming: list[str], *, is_taken_over: bool) -> None:
        """One tick of a process: what has ended leaves, who comes enters; after a takeover everybody again."""
        mine = {execution_id for execution_id, owner in self.owner.items() if owner == index}
        leaving = sorted((self.ended - self.released) & mine)
        entering = [*coming, *sorted(self.held & mine)] if is_taken_over else coming
        self.held |= set(coming)
        try:
            await self.keepers[index].leave(leave(self.gate, *leaving))
            self.released |= set(leaving)
            await self.keepers[index].enter(enter(self.gate, *entering))
        except BusUnavailable:
            self.crashes += 1
            await self.keepers[index].stop()
            self.keepers[index] = await self.keeper(self.connections[index])
            await self.act(index, [], is_taken_over=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "terms"),
    [
        ("concurrency", {"limit": 5}),
        ("concurrency", {"limit": 3, "on_limit": "cancel_oldest"}),
        ("concurrency", {"limit": 3, "on_limit": "drop"}),
        ("throttle", {"limit": 20, "per_s": 0.3}),
        ("debounce", {"delay_s": 0.05}),
    ],
)
async def test_two_keepers_that_keep_dying_lose_nobody_and_let_in_no_more_than_may(
    bus: Any, fresh_nats: Any, inbox: Any, rule: Any, terms: dict[str, Any]
):
    one, ids = gate(rule, **terms), names(200)
    crowd = Crowd(bus, one, ids, seed=7)
    await crowd.start(fresh_nats.nats_url)
    try:
        coming = list(ids)
        while coming:
            batch = [coming.pop() for _ in range(min(len(coming), crowd.rng.randrange(1, 12)))]
            await asyncio.gather(
                *(
                    crowd.act(index, [one for one in batch if crowd.owner[one] == index], is_taken_over=False)
                    for index in range(2)
                )
            )
            await crowd.hear(inbox)
            for execution_id in crowd.rng.sample(sorted(crowd.running), len(crowd.running) // 2):
                await crowd.end(execution_id)
        crowd.is_calm = True

        async def all_are_through() -> bool:
            await asyncio.gather(*(crowd.act(index, [], is_taken_over=False) for index in range(2)))
            await crowd.hear(inbox)
            for execution_id in sorted(crowd.running):
                await crowd.end(execution_id)
            return crowd.released == set(ids)

        await bus.eventually(all_are_through, f"{len(ids)} through the gate")
    finally:
        await crowd.stop()
    assert crowd.crashes > 0
    if rule == "concurrency":
        assert crowd.most <= one.limit
    if one.on_limit == "queue" and rule != "debounce":
        assert all(crowd.verdicts.values())
    stored = await read_last(bus.connection, "GATES", subjects.gate_state(one.id))
    assert stored is not None
    state = decode_gate(stored.payload).state
    assert (state.inside, state.next) == ((), ())
    tickets = [decode_ticket(one.payload) for one in await bus.stored("GATES", subjects.gate_ticket(one.id, "*"))]
    assert all(ticket.verdict for ticket in tickets)
