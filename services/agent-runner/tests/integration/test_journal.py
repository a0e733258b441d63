"""The journal in a real stream: who may add to it, and what a runner that is killed leaves behind."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millrace_agent_runner.adapters.journal import StoredJournals
from millrace_agent_runner.domain.journal import Abandoned, Body, Responded, decode_entry
from millrace_agent_runner.errors import RetryableFailure, TakenOver
from millrace_shared import subjects
from millrace_shared.blobs import Blobs
from millrace_shared.bus.publisher import Publisher
from millrace_shared.errors import BusUnavailable
from millrace_shared.testing.providers import FakeProviders, calls, reply

TOOLS = 5
CALLS = TOOLS + 1
ENTRIES = CALLS + 2 * TOOLS
KILLER = Path(__file__).with_name("killed_agent.py")


def note(turn: int) -> Abandoned:
    return Abandoned(f"note {turn}", attempt=1, at=float(turn))


@pytest.fixture
async def journals_of(bus: Any, tmp_path: Any) -> Any:
    async def make(runner: str, publisher: Any = Publisher) -> StoredJournals:
        started = await publisher(bus.connection).start()
        return StoredJournals(bus.connection, started, Blobs(f"file://{tmp_path}/blobs"), runner)

    return make


async def test_who_comes_second_gives_up(journals_of: Any, step_factory: Any) -> None:
    step = step_factory("agent", item=2)
    first = await (await journals_of("runner-1")).open(step, resumes=False)
    second = await (await journals_of("runner-2")).open(step, resumes=False)
    await first.append(note(1))
    with pytest.raises(TakenOver):
        await second.append(note(2))
    await first.append(note(3))
    newest = await (await journals_of("runner-2")).open(step, resumes=True)
    assert newest.entries == (note(1), note(3))
    with pytest.raises(TakenOver):
        await first.append(note(4))
    await newest.append(note(5))


async def test_concurrent_entries_of_one_conversation_keep_their_order(
    bus: Any, journals_of: Any, step_factory: Any
) -> None:
    step = step_factory("agent")
    journal = await (await journals_of("runner-1")).open(step, resumes=False)
    await asyncio.gather(*(journal.append(note(number)) for number in range(20)))
    stored = await bus.stored("JOURNAL", subjects.journal(step.execution_id, step.step, None, 0))
    assert [decode_entry(one.payload) for one in stored] == [note(number) for number in range(20)]


async def test_iterations_and_items_have_journals_of_their_own(journals_of: Any, step_factory: Any) -> None:
    journals = await journals_of("runner-1")
    step = step_factory("agent")
    for changes in ({}, {"item": 0}, {"iteration": 1}, {"step": "other"}):
        journal = await journals.open(msgspec.structs.replace(step, **changes), resumes=True)
        assert journal.entries == ()
        await journal.append(note(1))


async def test_a_large_answer_goes_by_claim_check(bus: Any, journals_of: Any, step_factory: Any) -> None:
    journals = await journals_of("runner-1")
    step = step_factory("agent")
    journal = await journals.open(step, resumes=False)
    document = msgspec.json.encode("x" * 200_000)
    await journal.append(Responded(0, "f", await journal.pack(document), attempt=1, at=1.0))
    [stored] = await bus.stored("JOURNAL", subjects.journal(step.execution_id, step.step, None, 0))
    assert len(stored.payload) < 1_000
    again = await journals.open(step, resumes=True)
    assert await again.unpack(again.entries[0].body) == document
    assert await again.unpack(await again.pack(b"[1]")) == b"[1]"
    assert (await again.pack(b"[1]")) == Body(document=msgspec.Raw(b"[1]"))


async def test_an_entry_whose_acknowledgement_was_lost_is_stored_once(
    bus: Any, journals_of: Any, step_factory: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("millrace_agent_runner.adapters.journal.LOOK_AGAIN_S", 0.01)
    losses = iter(["before", "after"])

    class Lossy(Publisher):
        async def publish_all(self, messages: Any, timeout_s: float = 5.0) -> Any:
            loss = next(losses, None)
            if loss == "before":
                return [BusUnavailable("lost")] * len(messages)
            stored = await super().publish_all(messages, timeout_s)
            return stored if loss is None else [BusUnavailable("lost")] * len(messages)

    step = step_factory("agent")
    journal = await (await journals_of("runner-1", Lossy)).open(step, resumes=False)
    for number in range(3):
        await journal.append(note(number))
    stored = await bus.stored("JOURNAL", subjects.journal(step.execution_id, step.step, None, 0))
    assert [decode_entry(one.payload) for one in stored] == [note(number) for number in range(3)]


async def test_an_entry_of_a_later_version_is_not_guessed_at(bus: Any, journals_of: Any, step_factory: Any) -> None:
    step = step_factory("agent")
    await bus.offer_raw(subjects.journal(step.execution_id, step.step, None, 0), b'{"type":"of a later version"}')
    with pytest.raises(RetryableFailure) as caught:
        await (await journals_of("runner-1")).open(step, resumes=True)
    assert caught.value.code == "journal_unknown"


class Killer:
    """A process that runs agents in children of its own, which it kills where it is told to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.victim = 0

    async def run(self, execution_id: str, attempt: int, entry: int, moment: str) -> dict[str, Any]:
        """Run an attempt. Returns what came of it; the child is killed before or after it adds the given entry."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode([execution_id, attempt, entry, moment]) + b"\n")
        await self._process.stdin.drain()
        self.victim = (await self._said())["pid"]
        return await self._said()

    async def _said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            said: dict[str, Any] = msgspec.json.decode(await self._process.stdout.readline())
        return said


@pytest.fixture
async def killer(fresh_nats_url: str, providers: FakeProviders, tmp_path: Any) -> AsyncIterator[Killer]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(KILLER),
        *(fresh_nats_url, providers.openai_url, str(tmp_path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    yield Killer(process)
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()


def answers_given(call: Any) -> int:
    return sum(message["role"] == "assistant" for message in call.messages)


def scripted(call: Any) -> Any:
    given = answers_given(call)
    return reply(None, calls("note", number=given)) if given < TOOLS else reply("done")


POINTS = [(entry, moment) for entry in range(ENTRIES) for moment in ("before", "after")]


@pytest.mark.slow
async def test_wherever_a_runner_is_killed_no_recorded_answer_is_asked_for_again(
    bus: Any, killer: Killer, providers: FakeProviders, step_factory: Any, tmp_path: Any
) -> None:
    providers.script = scripted
    for entry, moment in POINTS:
        execution_id = step_factory("agent").execution_id
        asked = len(providers.calls)
        assert (await killer.run(execution_id, 1, entry, moment))["died"]
        recorded = await recorded_by(bus, execution_id)
        before = len(providers.calls) - asked
        result = await killer.run(execution_id, 2, -1, "")
        assert result["output"] == "done", (entry, moment, result)
        assert len(providers.calls) - asked - before == CALLS - recorded, (entry, moment)
        notes = (tmp_path / execution_id).read_text().split()
        assert len(notes) == len(set(notes)), (entry, moment, notes)  # no tool ran twice
    assert any(killer_note(path) for path in tmp_path.iterdir())


def killer_note(path: Path) -> bool:
    return path.is_file() and len(path.read_text().split()) == TOOLS


@pytest.mark.slow
@pytest.mark.usefixtures("bus")
async def test_a_runner_that_is_killed_while_a_model_answers_asks_for_that_answer_alone(
    killer: Killer, providers: FakeProviders, step_factory: Any
) -> None:
    for number in range(CALLS):
        killed = False

        def script(call: Any, number: int = number) -> Any:
            nonlocal killed
            if answers_given(call) == number and not killed:
                killed = True
                os.kill(killer.victim, signal.SIGKILL)
            return scripted(call)

        providers.script = script
        execution_id = step_factory("agent").execution_id
        asked = len(providers.calls)
        assert (await killer.run(execution_id, 1, -1, ""))["died"]
        assert (await killer.run(execution_id, 2, -1, ""))["output"] == "done"
        assert [answers_given(call) for call in providers.calls[asked:]] == sorted([*range(CALLS), number])


async def test_another_runner_goes_on_where_a_killed_one_was(
    bus: Any, start_runner: Any, providers: FakeProviders, step_factory: Any
) -> None:
    await bus.ack_within(2.0)
    runner = await start_runner(MILLRACE_OPENAI_BASE_URL=providers.openai_url)
    await runner.port()
    killed = False

    def script(call: Any) -> Any:
        nonlocal killed
        given = answers_given(call)
        if given == 3 and not killed:
            killed = True
            runner.send(signal.SIGKILL)
        return reply(None, calls("fib", n=given)) if given < TOOLS else reply("done")

    providers.script = script
    agent = {"model": "openai:m", "tools": ["fib"]}
    step = step_factory("agent", {"agent": agent}, {"prompt": "Add up."})
    await bus.offer(step)
    with contextlib.suppress(ProcessLookupError):
        await runner.exit_status()
    await start_runner(MILLRACE_OPENAI_BASE_URL=providers.openai_url)
    result = await bus.result_of(step)
    assert result.output.data == "done"
    assert [answers_given(call) for call in providers.calls] == [0, 1, 2, 3, 3, 4, 5]
    assert result.usage.calls == CALLS  # what the killed one used is told, too


async def recorded_by(bus: Any, execution_id: str) -> int:
    """Return how many answers a conversation's journal holds."""
    stored = await bus.stored("JOURNAL", subjects.journal(execution_id, "ask", None, 0))
    return sum(isinstance(decode_entry(one.payload), Responded) for one in stored)
