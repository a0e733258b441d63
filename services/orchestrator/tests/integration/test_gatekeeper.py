"""Gatekeepers on a real server: one or two of them, and what is left when one dies at the worst moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from millrace_orchestrator.adapters import gatekeeper as gatekeeper_module
from millrace_orchestrator.adapters import tickets as tickets_module
from millrace_orchestrator.adapters.gatekeeper import Gatekeeper
from millrace_orchestrator.domain.gates import Enter, Gate, Leave
from millrace_orchestrator.errors import GateContended
from millrace_shared import subjects
from millrace_shared.bus.log_reader import read_last
from millrace_shared.bus.publisher import Outgoing
from millrace_shared.codec import encode
from millrace_shared.errors import BusUnavailable
from millrace_shared.gates import GateDocument, GateState, decode_gate
from millrace_shared.ids import new_id
from millrace_shared.messages import LOG_VERSION, Admission, ExecutionFinished, Transition


def gate(rule: Any = "concurrency", gate_id: str = "", **terms: Any) -> Gate:
    return Gate(gate_id or new_id(), rule, "k", **terms)


def names(count: int) -> list[str]:
    return [new_id() for _ in range(count)]


def enter(one: Gate, *execution_ids: str) -> list[Enter]:
    return [Enter(one, execution_id) for execution_id in execution_ids]


def leave(one: Gate, *execution_ids: str) -> list[Leave]:
    return [Leave(one, execution_id) for execution_id in execution_ids]


async def document_of(bus: Any, one: Gate) -> GateDocument:
    stored = await read_last(bus.connection, "GATES", subjects.gate_state(one.id))
    return decode_gate(stored.payload) if stored else GateDocument(0.0)


async def state_of(bus: Any, one: Gate) -> GateState:
    return (await document_of(bus, one)).state


async def end(bus: Any, execution_id: str) -> None:
    """Write the end into an execution's log, and tell nobody."""
    transition = Transition(LOG_VERSION, execution_id, 1, 1.0, (ExecutionFinished("completed"),))
    await bus.publisher.publish(Outgoing(subjects.log(execution_id), encode(transition)))


async def test_one_too_many_waits_for_his_turn(keeper: Gatekeeper, bus: Any, inbox: Any):
    one, (a, b, c, d) = gate(limit=2), names(4)
    await keeper.enter(enter(one, a, b, c))
    await keeper.enter(enter(one, d))
    assert await inbox.admitted() == [a, b]
    await keeper.leave(leave(one, b))
    assert await inbox.admitted() == [a, b, c]
    await keeper.leave(leave(one, a, c, d))  # d did not wait for it
    assert await inbox.admitted() == [a, b, c]
    assert await state_of(bus, one) == GateState(one.terms, (await state_of(bus, one)).cursor)


async def test_gates_do_not_touch_one_another(keeper: Gatekeeper, inbox: Any):
    gates, ids = [gate(limit=1) for _ in range(30)], names(60)
    await keeper.enter([Enter(gates[number % 30], one) for number, one in enumerate(ids)])
    assert sorted(await inbox.admitted()) == sorted(ids[:30])
    await keeper.leave([Leave(gates[number], ids[number]) for number in range(30)])
    assert sorted(await inbox.admitted()) == sorted(ids)


async def test_one_too_many_is_turned_away(keeper: Gatekeeper, inbox: Any):
    one, (a, b, c) = gate(limit=1, on_limit="drop"), names(3)
    await keeper.enter(enter(one, a, b))
    assert (await inbox.admitted(), await inbox.refused()) == ([a], [b])
    assert "at the same time: 1" in inbox.told[-1].reason
    await keeper.leave(leave(one, a))
    await keeper.enter(enter(one, c))
    assert await inbox.admitted() == [a, c]


async def test_the_oldest_is_cancelled_and_the_newest_begins_when_it_has_ended(keeper: Gatekeeper, inbox: Any):
    one, (a, b, c) = gate(limit=1, on_limit="cancel_oldest"), names(3)
    await keeper.enter(enter(one, a))
    await keeper.enter(enter(one, b))
    await keeper.enter(enter(one, c))
    assert (await inbox.cancelled(), await inbox.refused(), await inbox.admitted()) == ([a], [b], [a])
    await keeper.leave(leave(one, a))
    assert await inbox.admitted() == [a, c]


async def test_a_throttle_admits_the_rest_by_itself(keeper: Gatekeeper, inbox: Any):
    one, ids = gate("throttle", limit=2, per_s=0.2), names(5)
    await keeper.enter(enter(one, *ids))
    await keeper.leave(leave(one, ids[0]))  # which makes no room
    await inbox.has_admitted(*ids)


async def test_of_several_in_a_row_the_newest_begins_by_itself(keeper: Gatekeeper, inbox: Any):
    one, (a, b, c) = gate("debounce", delay_s=2.0), names(3)
    await keeper.enter(enter(one, a, b))
    await keeper.enter(enter(one, c))
    await inbox.has_admitted(c)
    assert sorted(await inbox.refused()) == sorted([a, b])


async def test_who_asks_again_is_told_the_same_and_takes_no_second_place(
    keeper: Gatekeeper, new_keeper: Any, bus: Any, inbox: Any
):
    one, (a, b) = gate(limit=1), names(2)
    await keeper.enter(enter(one, a, b))
    before = await state_of(bus, one)
    other = await new_keeper()
    for _ in range(3):
        await other.enter(enter(one, a, b))
        await keeper.enter(enter(one, b, a))
    assert await state_of(bus, one) == before
    assert await inbox.admitted() == [a]  # the inbox takes the same word once


async def test_an_answer_is_given_again_when_it_did_not_arrive(keeper: Gatekeeper, bus: Any, inbox: Any):
    one, (a, b) = gate(limit=1, on_limit="drop"), names(2)
    await keeper.enter(enter(one, a, b))
    await bus.connection.jetstream_api("STREAM.PURGE.INBOX")
    stream = await bus.connection.jetstream_api("STREAM.INFO.INBOX")
    await bus.connection.jetstream_api("STREAM.UPDATE.INBOX", {**stream["config"], "duplicate_window": 100_000_000})

    async def look() -> bool:
        await keeper.enter(enter(one, a, b))
        return bool(await inbox.admitted() and await inbox.refused())

    await bus.eventually(look, "both answers again")
    assert set(inbox.told) == {Admission(a, one.id, True), Admission(b, one.id, False, inbox.told[-1].reason)}


async def test_an_old_memory_does_not_bring_back_who_has_left(keeper: Gatekeeper, bus: Any):
    one, (a, b) = gate(limit=1), names(2)
    await keeper.enter(enter(one, a, b))
    await keeper.leave(leave(one, b))  # while it waited
    await keeper.leave(leave(one, a))
    await keeper.enter(enter(one, a, b))
    assert (await state_of(bus, one)).inside == ()


async def test_leaving_twice_or_without_having_come_is_nothing(keeper: Gatekeeper, inbox: Any, bus: Any):
    for one in (gate(limit=1), gate("throttle", limit=1, per_s=60.0), gate("debounce", delay_s=60.0)):
        a, b = names(2)
        await keeper.enter(enter(one, a))
        await keeper.leave(leave(one, a, b))
        before = await document_of(bus, one)
        await keeper.leave(leave(one, a, b))
        assert await document_of(bus, one) == before


async def test_who_leaves_a_debounce_does_not_begin(keeper: Gatekeeper, bus: Any, inbox: Any):
    one, (a, b) = gate("debounce", delay_s=2.0), names(2)
    await keeper.enter(enter(one, a))
    await keeper.leave(leave(one, a))
    assert (await state_of(bus, one)).next == ()
    await keeper.enter(enter(one, b))
    await inbox.has_admitted(b)


async def test_nobody_is_turned_away_because_of_one_who_ended_without_a_word(keeper: Gatekeeper, bus: Any, inbox: Any):
    for on_limit in ("drop", "cancel_oldest"):
        one, (a, b, c) = gate(limit=1, on_limit=on_limit), names(3)
        await keeper.enter(enter(one, a))
        await keeper.enter(enter(one, b))  # just asked, and asked again
        told = len(inbox.told)
        await end(bus, a)
        await keeper.enter(enter(one, c))
        await inbox.read()
        assert Admission(c, one.id, True) in inbox.told[told:]
        assert (await state_of(bus, one)).inside == (c,)


async def test_a_gate_that_somebody_waits_at_is_looked_at_now_and_then(
    keeper: Gatekeeper, bus: Any, inbox: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gatekeeper_module, "RECHECK_S", 0.05)
    monkeypatch.setattr(gatekeeper_module, "AUDIT_EVERY_S", 0.05)
    one, (a, b) = gate(limit=1), names(2)
    await keeper.enter(enter(one, a, b))
    await end(bus, a)
    await inbox.has_admitted(a, b)


async def test_who_comes_while_another_leaves_does_not_wait_before_an_open_gate(
    keeper: Gatekeeper, new_keeper: Any, inbox: Any, monkeypatch: pytest.MonkeyPatch
):
    one, (a, b) = gate(limit=1), names(2)
    await keeper.enter(enter(one, a))
    other = await new_keeper()
    write = before_once(keeper._tickets.write, lambda: other.enter(enter(one, b)))
    monkeypatch.setattr(keeper._tickets, "write", write)
    await keeper.leave(leave(one, a))
    assert await inbox.admitted() == [a, b]


async def test_who_leaves_while_it_is_admitted_takes_no_place(
    keeper: Gatekeeper, new_keeper: Any, bus: Any, monkeypatch: pytest.MonkeyPatch
):
    one, (a, b, c) = gate(limit=1), names(3)
    await keeper.enter(enter(one, a, b, c))
    other = await new_keeper()
    write = before_once(keeper._tickets.write, lambda: other.leave(leave(one, b)))
    monkeypatch.setattr(keeper._tickets, "write", write)
    await keeper.leave(leave(one, a))
    assert (await state_of(bus, one)).inside == (c,)


def before_once(call: Callable[..., Awaitable[Any]], first: Callable[[], Awaitable[Any]]) -> Callable[..., Any]:
    """Have something else happen once, just before a call."""
    pending = [first]

    async def called(*arguments: Any) -> Any:
        if pending:
            await pending.pop()()
        return await call(*arguments)

    return called


async def test_a_stamp_that_the_server_has_lost_does_not_keep_anybody_for_ever(
    keeper: Gatekeeper, bus: Any, inbox: Any
):
    one, (a, b) = gate("throttle", limit=5, per_s=0.1), names(2)
    await keeper.enter(enter(one, a))
    await keeper.enter(enter(one, b))  # overwrites what was said to a
    await bus.publisher.publish(Outgoing(subjects.gate_ticket(one.id, a), b'{"at":1.0}'))
    cursor = (await bus.connection.jetstream_api("STREAM.INFO.GATES"))["state"]["last_seq"]
    state = GateDocument(1.0, GateState(one.terms, cursor))
    await bus.publisher.publish(Outgoing(subjects.gate_state(one.id), encode(state)))
    await keeper.enter(enter(one, a))
    assert (await state_of(bus, one)).cursor > cursor


async def test_a_key_that_was_used_once_leaves_nothing(keeper: Gatekeeper, bus: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tickets_module, "STAMP_TTL_S", 1)
    monkeypatch.setattr(tickets_module, "IDLE_TTL_S", 1)
    running, (a, b, c, d) = gate(limit=1), names(4)
    await keeper.enter(enter(running, a))
    for one in (gate(limit=1), gate("throttle", limit=1, per_s=0.5), gate("debounce", delay_s=0.1)):
        await keeper.enter(enter(one, b, c))
        await keeper.enter(enter(one, d))
        await keeper.leave(leave(one, b, c, d))

    async def look() -> bool:
        return [one.subject for one in await bus.stored("GATES")] == [subjects.gate_state(running.id)]

    await bus.eventually(look, "only the gate that somebody is inside of is remembered")


async def test_who_always_comes_too_late_gives_up_for_now(keeper: Gatekeeper, bus: Any, monkeypatch: Any):
    async def lose(changes: Any) -> list[int]:
        return [0 for _ in changes]

    monkeypatch.setattr(gatekeeper_module, "LOSSES_MAX", 3)
    monkeypatch.setattr(keeper._tickets, "write", lose)
    with pytest.raises(GateContended):
        await keeper.enter(enter(gate(limit=1), *names(1)))


async def test_timers_go_on_through_an_outage(keeper: Gatekeeper, inbox: Any, monkeypatch: Any):
    one, (a, b) = gate("throttle", limit=1, per_s=0.1), names(2)
    await keeper.enter(enter(one, a, b))

    async def fail() -> None:
        raise BusUnavailable("nobody there")

    monkeypatch.setattr(gatekeeper_module, "RETRY_S", 0.05)
    monkeypatch.setattr(keeper._tickets, "documents", before_once(keeper._tickets.documents, fail))
    await inbox.has_admitted(a, b)


async def test_ten_thousand_who_wait_make_an_admission_no_dearer(keeper: Gatekeeper, bus: Any, inbox: Any):
    one, ids = gate(limit=1), names(10_001)

    async def cost(leaving: str) -> tuple[int, int]:
        sent, send = [], bus.connection.send
        bus.connection.send = lambda *arguments: (sent.append(arguments), send(*arguments))[1]
        before = bus.connection.stats["in_bytes"]
        try:
            await keeper.leave(leave(one, leaving))
        finally:
            bus.connection.send = send
        return len(sent), bus.connection.stats["in_bytes"] - before

    await keeper.enter(enter(one, *ids[:3]))
    few = await cost(ids[0])
    for start in range(3, 10_001, 500):
        await keeper.enter(enter(one, *ids[start : start + 500]))
    many = await cost(ids[1])
    assert await inbox.admitted() == ids[:3]
    assert many[0] == few[0]  # requests
    assert many[1] <= few[1] + 4000  # bytes of the answers
    stored = await read_last(bus.connection, "GATES", subjects.gate_state(one.id))
    assert stored is not None
    assert len(stored.payload) < 500


async def test_a_gate_that_drops_turns_ten_thousand_away(keeper: Gatekeeper, inbox: Any):
    one, ids = gate(limit=3, on_limit="drop"), names(2_000)
    await keeper.enter(enter(one, *ids))
    assert await inbox.admitted() == ids[:3]
    assert sorted(await inbox.refused()) == sorted(ids[3:])
