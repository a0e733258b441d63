"""What is recorded of a conversation, and what of it is given again."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai import RunContext, Tool, ToolFailed
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.test import TestModel
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.usage import RunUsage

from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.domain.journal import Body, Conversation, Responded, TakenUp, ToolBegun, ToolEnded
from millrace_agent_runner.domain.usage import plus, since
from millrace_agent_runner.errors import RetryableFailure, StepFailure, TakenOver, TerminalFailure
from millrace_agent_runner.executors.agent.executor import AgentExecutor
from millrace_agent_runner.executors.agent.journaled import JournaledTools, Recorder
from millrace_agent_runner.executors.agent.replay import dump_response, fingerprint_of, hide, load_response, show
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads
from millrace_shared.errors import MessageInvalid
from millrace_shared.ids import new_id
from millrace_shared.messages import LlmCall, TokenDelta, Usage
from millrace_shared.testing.providers import FakeProviders, calls, refused, reply

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
SCORE = {"type": "object", "required": ["score"], "properties": {"score": {"type": "number"}}}


class Recorded:
    def __init__(self) -> None:
        self.calls: list[LlmCall] = []

    def llm_call(self, fact: LlmCall) -> None:
        self.calls.append(fact)

    def token_delta(self, fact: TokenDelta) -> None: ...


@pytest.fixture
def facts() -> Recorded:
    return Recorded()


@pytest.fixture
async def executor(providers: FakeProviders, facts: Recorded, journals: Any) -> AsyncIterator[AgentExecutor]:
    http = HttpExecutor(Allowed())
    agents = AgentExecutor(facts, journals, http, PythonExecutor(Functions(()), Threads(2)), {}, providers.openai_url)
    yield agents
    await agents.close()
    await http.close()


@pytest.fixture
def attempts(step_factory: Any, attempt_factory: Any) -> Any:
    """Makes attempts of one conversation."""
    execution_id = new_id()

    def make(number: int, output: Any = None, prompt: str = "Add up.", **agent: Any) -> Any:
        spec = {"agent": {"model": "openai:m", "tools": ["fib"], **agent}} | ({"output": output} if output else {})
        step = step_factory("agent", spec, {"prompt": prompt}, attempt=number, execution_id=execution_id)
        attempt = attempt_factory(step)
        attempt.resumes = number > 1
        return attempt

    return make


def answers_given(call: Any) -> int:
    return sum(message["role"] == "assistant" for message in call.messages)


def three_tools_then_an_answer(call: Any) -> Any:
    given = answers_given(call)
    return reply(None, calls("fib", n=given)) if given < 3 else reply("done")


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_retry_goes_on_with_the_call_that_failed(
    executor: AgentExecutor, providers: FakeProviders, facts: Recorded, attempts: Any, streaming: bool
) -> None:
    failing = True
    providers.script = lambda call: (
        refused(500) if failing and answers_given(call) == 3 else three_tools_then_an_answer(call)
    )
    with pytest.raises(RetryableFailure) as caught:
        await executor(attempts(1, streaming_enabled=streaming))
    assert caught.value.category == "server_error"
    failing = False
    second = attempts(2, streaming_enabled=streaming)
    assert await executor(second) == "done"
    assert [answers_given(call) for call in providers.calls] == [0, 1, 2, 3, 3]
    assert [(call.attempt, call.sequence) for call in facts.calls] == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 4)]
    assert second.usage.calls == 1
    assert second.call == 4


async def test_an_attempt_that_is_delivered_again_counts_what_it_used_before(
    executor: AgentExecutor, providers: FakeProviders, attempts: Any
) -> None:
    providers.script = three_tools_then_an_answer
    first = attempts(1)
    await executor(first)
    again = attempts(1)
    again.resumes = True
    assert await executor(again) == "done"
    assert len(providers.calls) == 4
    assert again.usage == first.usage


async def test_answers_that_led_nowhere_are_not_followed_again(
    executor: AgentExecutor, providers: FakeProviders, attempts: Any
) -> None:
    providers.script = lambda call: reply(None, calls("answer", score="high"))
    with pytest.raises(RetryableFailure) as caught:
        await executor(attempts(1, SCORE, tools=[]))
    assert caught.value.category == "llm_invalid_output"
    asked = len(providers.calls)
    assert asked == 3
    providers.script = lambda call: reply(None, calls(call.tools[-1], score=1))
    assert await executor(attempts(2, SCORE, tools=[])) == {"score": 1}
    assert len(providers.calls) == asked + 1


async def test_a_conversation_that_has_changed_is_asked_anew_from_there(
    executor: AgentExecutor, providers: FakeProviders, attempts: Any, caplog: Any
) -> None:
    providers.script = three_tools_then_an_answer
    await executor(attempts(1))
    with caplog.at_level(logging.WARNING):
        assert await executor(attempts(2, prompt="Multiply.")) == "done"
    assert [answers_given(call) for call in providers.calls] == [0, 1, 2, 3] * 2
    assert "request 1 is another than the journal has" in caplog.text


async def test_a_call_has_a_number_that_no_other_has(
    executor: AgentExecutor, providers: FakeProviders, attempts: Any
) -> None:
    providers.script = three_tools_then_an_answer
    await executor(attempts(1))
    changed = attempts(2, prompt="Multiply.")
    await executor(changed)
    assert changed.call == 8


def toolset_of(attempt: Any, journal: Any, use: Any, **marks: Any) -> JournaledTools:
    tool = Tool.from_schema(use, "pay", "Pay.", {"type": "object"})
    tool.metadata = marks
    recorder = Recorder(attempt, journal)
    toolset: FunctionToolset[None] = FunctionToolset([tool], max_retries=1)
    return JournaledTools(toolset, recorder)


class Killed(BaseException):
    """The runner dies."""


def context() -> RunContext[None]:
    return RunContext(deps=None, model=TestModel(), usage=RunUsage(), tool_call_id="call-1", tool_name="pay")


def answer(turn: int, **more: Any) -> Responded:
    return Responded(turn, f"f{turn}", Body(), attempt=1, at=1.0, **more)


async def called(tools: JournaledTools) -> Any:
    [(name, tool)] = (await tools.get_tools(context())).items()
    tools.recorder.conversation.replay("f0")
    return await tools.call_tool(name, {"usd": 5}, context(), tool)


@pytest.fixture
async def journal(journals: Any, attempts: Any) -> Any:
    opened = await journals.open(attempts(1).step, resumes=False)
    await opened.append(answer(0))
    return opened


@pytest.mark.usefixtures("journal")
async def test_a_tool_whose_end_is_unknown_is_not_repeated_and_the_model_is_told(journals: Any, attempts: Any) -> None:
    paid = 0

    async def pay(**_: Any) -> Any:
        nonlocal paid
        paid += 1
        raise Killed

    async def reopened() -> Any:
        return await journals.open(attempts(2).step, resumes=True)

    with pytest.raises(Killed):
        await called(toolset_of(attempts(1), await reopened(), pay))
    with pytest.raises(TerminalFailure) as caught:
        await called(toolset_of(attempts(2), await reopened(), pay, on_unknown="fail"))
    assert (caught.value.category, caught.value.code) == ("tool_error", "tool_outcome_unknown")
    for _ in range(2):  # the second time it is in the journal
        with pytest.raises(ToolFailed, match="It was not repeated"):
            await called(toolset_of(attempts(2), await reopened(), pay))
    assert paid == 1


async def test_a_tool_that_may_be_repeated_is_called_again(journals: Any, journal: Any, attempts: Any) -> None:
    paid = 0

    async def pay(**_: Any) -> Any:
        nonlocal paid
        paid += 1
        raise Killed

    for _ in range(2):
        opened = await journals.open(attempts(2).step, resumes=True)
        with pytest.raises(Killed):
            await called(toolset_of(attempts(2), opened, pay, idempotent=True))
    assert paid == 2
    assert len(journal.kept) == 1


@pytest.mark.parametrize("idempotent", [True, False])
async def test_what_a_tool_gave_or_how_it_failed_is_given_again(
    journals: Any, journal: Any, attempts: Any, idempotent: bool
) -> None:
    said: list[Any] = [ToolFailed("no money"), {"paid": 5}]
    for outcome in said:
        uses = 0

        async def pay(outcome: Any = outcome, **_: Any) -> Any:
            nonlocal uses
            uses += 1
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        journal.kept[1:] = []
        for _ in range(2):
            opened = await journals.open(attempts(2).step, resumes=True)
            tools = toolset_of(attempts(2), opened, pay, idempotent=idempotent)
            if isinstance(outcome, Exception):
                with pytest.raises(ToolFailed, match="no money"):
                    await called(tools)
            else:
                assert await called(tools) == outcome
        assert uses == 1
        assert any(isinstance(entry, ToolBegun) for entry in journal.kept) is not idempotent


@pytest.mark.usefixtures("journal")
async def test_a_tool_that_failed_the_attempt_may_be_called_again(journals: Any, attempts: Any) -> None:
    uses = 0

    async def pay(**_: Any) -> Any:
        nonlocal uses
        uses += 1
        if uses == 1:
            raise RetryableFailure("not now", category="connection")
        return "paid"

    with pytest.raises(StepFailure):
        await called(toolset_of(attempts(1), await journals.open(attempts(1).step, resumes=True), pay))
    opened = await journals.open(attempts(2).step, resumes=True)
    assert await called(toolset_of(attempts(2), opened, pay)) == "paid"


def test_secrets_are_not_recorded_and_stand_where_they_stood() -> None:
    secrets = ("hunter2-hunter2", "abc", "hunter2-hunter2-long")
    response = ModelResponse([TextPart("use hunter2-hunter2-long, then hunter2-hunter2")])
    document = dump_response(response, secrets)
    assert b"hunter2" not in document
    assert load_response(document, secrets).parts == response.parts
    rotated = ("new-value-1", "abc", "new-value-2")
    [part] = load_response(document, rotated).parts
    assert part.content == "use new-value-2, then new-value-1"  # type: ignore[union-attr]


@given(JSON)
def test_what_is_hidden_is_shown_again(value: Any) -> None:
    secrets = ("some-secret-value",)
    document = hide([value, f"before {secrets[0]} after"], secrets)
    assert secrets[0].encode() not in document
    assert show(document, secrets) == [value, f"before {secrets[0]} after"]


@given(st.text(), st.text())
def test_a_fingerprint_goes_by_what_is_read_and_by_nothing_else(one: str, other: str) -> None:
    def asked(text: str) -> str:
        return fingerprint_of([ModelRequest([UserPromptPart(text)], instructions="Be brief.", run_id=new_id())])

    assert (asked(one) == asked(other)) == (one == other)


ENTRIES = st.one_of(
    st.builds(answer, st.integers(0, 3), reported=st.integers(0, 9)),
    st.builds(ToolBegun, st.integers(0, 3), st.sampled_from("ab"), st.just("pay"), st.just(1), st.just(1.0)),
    st.builds(
        ToolEnded,
        st.integers(0, 3),
        st.sampled_from("ab"),
        st.just("pay"),
        st.sampled_from(["returned", "failed", "retry", "raised"]),
        st.just(Body()),
        st.just(1),
        st.just(1.0),
    ),
    st.just(TakenUp(2, 1.0)),
)


@given(st.lists(ENTRIES, max_size=12))
def test_a_journal_is_read_as_it_was_written(entries: list[Any]) -> None:
    live, written = Conversation((), "live"), []
    for entry in entries:
        try:
            live.record(entry)
        except MessageInvalid:
            continue
        written.append(entry)
    read = Conversation(written, "read")
    assert (read.answered, read.reported) == (live.answered, live.reported)
    for turn in range(4):
        replayed = read.replay(f"f{turn}")
        if replayed is None:
            break
        assert [read.tool(key) for key in "ab"] == [live_tool(written, turn, key) for key in "ab"]


def live_tool(written: list[Any], turn: int, key: str) -> Any:
    """What is known of a tool call, by the last entry about it that still counts."""
    known: Any = None
    for entry in written:
        if isinstance(entry, Responded) and entry.turn <= turn:
            known = None
        elif isinstance(entry, ToolBegun | ToolEnded) and (entry.turn, entry.key) == (turn, key):
            known = "unknown" if isinstance(entry, ToolBegun) else None if entry.outcome == "raised" else entry
        elif isinstance(entry, ToolBegun | ToolEnded) and entry.turn < turn:
            known = None
    return known


def test_sums_of_use_do_not_make_up_what_is_unknown() -> None:
    from decimal import Decimal

    priced, unpriced = Usage(1, 10, 5, Decimal("0.1")), Usage(1, 2, 1, None)
    assert plus(None, priced) == priced
    assert plus(priced, unpriced) == Usage(2, 12, 6, None)
    assert since(priced, plus(priced, priced)) == priced
    assert since(None, priced) == priced
    assert since(priced, priced) is None


def test_entries_are_read_as_what_they_are() -> None:
    from millrace_agent_runner.domain.journal import decode_entry

    with pytest.raises(msgspec.DecodeError):
        decode_entry(b'{"type":"of a later version"}')


@pytest.mark.parametrize("tools_at_once", [1, 3])
@pytest.mark.parametrize("refused_entry", [0, 1, 2])
async def test_a_run_that_was_taken_over_says_so_and_no_more(
    executor: AgentExecutor,
    providers: FakeProviders,
    journals: Any,
    attempts: Any,
    tools_at_once: int,
    refused_entry: int,
) -> None:
    providers.script = lambda call: (
        reply(None, *(calls("fib", n=n) for n in range(tools_at_once))) if not answers_given(call) else reply("done")
    )
    attempt = attempts(1)
    journal = await journals.open(attempt.step, resumes=False)
    added = 0

    async def append(_: Any) -> None:
        nonlocal added
        added += 1
        if added > refused_entry:
            raise TakenOver("another runner has it")

    journal.append = append
    journals.open = lambda *_, **__: opened(journal)
    with pytest.raises(TakenOver):
        await executor(attempt)
    assert len(providers.calls) == 1


async def opened(journal: Any) -> Any:
    return journal
