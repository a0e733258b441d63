"""What viewers see of answers: the pieces as they come, and that an answer begins again when it does."""

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest

from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.errors import StepFailure
from millrace_agent_runner.executors.agent.executor import AgentExecutor
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads
from millrace_shared.messages import LlmCall, TokenDelta
from millrace_shared.testing.providers import FakeProviders, calls, hang_up, reply

ANSWER = "an answer of many words, so that it comes in several pieces of the stream"
MODELS = ("openai:m-1", "anthropic:m-1")


class Pieces:
    """Keeps the pieces of answers."""

    def __init__(self) -> None:
        self.all: list[TokenDelta] = []

    def llm_call(self, fact: LlmCall) -> None:
        pass

    def token_delta(self, fact: TokenDelta) -> None:
        self.all.append(fact)

    def text(self) -> str:
        """What a viewer has in the end who does as the pieces say."""
        shown: dict[int, str] = {}
        for piece in self.all:
            if piece.restarted:
                shown = {turn: text for turn, text in shown.items() if turn < piece.turn}
            shown[piece.turn] = shown.get(piece.turn, "") + piece.text
        return "".join(shown[turn] for turn in sorted(shown))


@pytest.fixture
def pieces() -> Pieces:
    return Pieces()


@pytest.fixture
async def executor(providers: FakeProviders, pieces: Pieces, journals: Any) -> AsyncIterator[AgentExecutor]:
    http = HttpExecutor(Allowed.parse(["127.0.0.0/8"]))
    keys = {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": providers.anthropic_url}
    agents = AgentExecutor(
        pieces, journals, http, PythonExecutor(Functions(()), Threads(2)), keys, providers.openai_url
    )
    yield agents
    await agents.close()
    await http.close()


@pytest.fixture
def attempt(step_factory: Any, attempt_factory: Any) -> Any:
    def make(model: str, number: int = 1, **agent: Any) -> Any:
        spec = {"agent": {"name": "a", "model": model, **agent}}
        return attempt_factory(step_factory("agent", spec, {"prompt": "Why?"}, attempt=number))

    return make


@pytest.mark.parametrize("model", MODELS)
async def test_the_pieces_make_up_the_answer(
    executor: AgentExecutor, providers: FakeProviders, pieces: Pieces, attempt: Any, model: str
) -> None:
    providers.script = reply(ANSWER)
    assert await executor(attempt(model)) == ANSWER
    assert pieces.text() == ANSWER
    assert [piece.sequence for piece in pieces.all] == list(range(1, len(pieces.all) + 1))
    assert not any(piece.restarted for piece in pieces.all)


@pytest.mark.parametrize("model", MODELS)
async def test_each_answer_of_a_conversation_is_a_turn(
    executor: AgentExecutor, providers: FakeProviders, pieces: Pieces, attempt: Any, model: str
) -> None:
    providers.script = [reply("let me see", calls("fib", n=1)), reply("it is 1")]
    assert await executor(attempt(model, tools=["fib"])) == "it is 1"
    assert {piece.turn: piece.text for piece in pieces.all} == {0: "let me see", 1: "it is 1"}
    assert pieces.text() == "let me seeit is 1"


async def test_an_attempt_after_one_that_broke_off_says_that_the_text_begins_again(
    executor: AgentExecutor, providers: FakeProviders, pieces: Pieces, attempt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace_agent_runner.executors.agent.streaming.PIECE_INTERVAL_S", 0.0)
    providers.script = [hang_up(ANSWER, after_pieces=3), reply(ANSWER)]
    with pytest.raises(StepFailure):
        await executor(attempt("openai:m-1"))
    assert pieces.text()
    assert pieces.text() != ANSWER
    shown = len(pieces.all)
    await executor(attempt("openai:m-1", number=2))
    assert pieces.all[shown].restarted
    assert pieces.all[shown].text == ""
    assert pieces.text() == ANSWER


async def test_so_does_a_delivery_that_may_be_a_repeat(
    executor: AgentExecutor, providers: FakeProviders, pieces: Pieces, attempt: Any
) -> None:
    providers.script = reply(ANSWER)
    repeated = dataclasses.replace(attempt("openai:m-1"), resumes=True)
    await executor(repeated)
    assert [piece.restarted for piece in pieces.all][:2] == [True, False]
    assert pieces.text() == ANSWER
