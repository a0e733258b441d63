"""The fake providers as the providers' own clients see them: what tests of agents rest on."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_shared.testing.providers import (
    Call,
    FakeProviders,
    Quota,
    Reply,
    calls,
    endless,
    hang_up,
    never,
    raw,
    refused,
    reply,
)
from millrace_shared.testing.waiting import eventually

ASK: Any = {"model": "m-1", "messages": [{"role": "user", "content": "how are you?"}]}
TOOL = {
    "name": "look",
    "description": "looks",
    "parameters": {"type": "object", "properties": {"where": {"type": "string"}}},
}
OPENAI_TOOLS: Any = [{"type": "function", "function": TOOL}]
ANTHROPIC_TOOLS: Any = [{"name": "look", "description": "looks", "input_schema": TOOL["parameters"]}]


@pytest.fixture
def providers() -> Iterator[FakeProviders]:
    with FakeProviders() as providers:
        yield providers


@pytest.fixture
async def gpt(providers: FakeProviders) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="k", base_url=providers.openai_url, max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(providers: FakeProviders) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key="k", base_url=providers.anthropic_url, max_retries=0) as client:
        yield client


async def text_of_gpt(gpt: openai.AsyncOpenAI, **more: Any) -> str:
    stream = await gpt.chat.completions.create(**ASK, stream=True, **more)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def test_openai_answers_text_tools_and_usage(providers: FakeProviders, gpt: openai.AsyncOpenAI) -> None:
    providers.script = reply("well", calls("look", where="up"), cached_tokens=1)
    answer = await gpt.chat.completions.create(**ASK, tools=OPENAI_TOOLS)
    message = answer.choices[0].message
    assert message.content == "well"
    assert [(one.function.name, one.function.arguments) for one in message.tool_calls] == [("look", '{"where":"up"}')]
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = providers.calls
    assert (call.protocol, call.model, call.tools, call.prompt) == ("openai", "m-1", ("look",), "how are you?")
    await eventually(lambda: call.fate == "sent", "the provider notes that it is sent")
    assert (call.status, call.stream) == (200, False)
    assert answer.usage.prompt_tokens == call.input_tokens == call.input_count()
    assert answer.usage.completion_tokens == call.output_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 1


async def test_openai_streams_the_same(providers: FakeProviders, gpt: openai.AsyncOpenAI) -> None:
    providers.script = reply("a text of several pieces, so that it is streamed", calls("look", where="up"))
    text, names, arguments, usage = "", [], "", None
    options = {"include_usage": True}
    stream = await gpt.chat.completions.create(**ASK, tools=OPENAI_TOOLS, stream=True, stream_options=options)
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for part in choice.delta.tool_calls or ():
                names += [part.function.name] if part.function.name else []
                arguments += part.function.arguments or ""
    assert (text, names, arguments) == (providers.script.text, ["look"], '{"where":"up"}')
    assert usage.completion_tokens == providers.calls[0].output_tokens
    assert providers.calls[0].stream


async def test_anthropic_answers_text_tools_and_usage(
    providers: FakeProviders, claude: anthropic.AsyncAnthropic
) -> None:
    providers.script = reply("well", calls("look", where="up"), input_tokens=7, cached_tokens=2)
    answer = await claude.messages.create(**ASK, max_tokens=100, system="be short", tools=ANTHROPIC_TOOLS)
    text, use = answer.content
    assert (text.text, use.name, use.input) == ("well", "look", {"where": "up"})
    assert answer.stop_reason == "tool_use"
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens) == (5, 2)
    (call,) = providers.calls
    assert (call.protocol, call.tools, call.texts) == ("anthropic", ("look",), ("be short", "how are you?"))


async def test_anthropic_streams_the_same(providers: FakeProviders, claude: anthropic.AsyncAnthropic) -> None:
    providers.script = reply("a text of several pieces, so that it is streamed", calls("look", where="up"))
    async with claude.messages.stream(**ASK, max_tokens=100, tools=ANTHROPIC_TOOLS) as stream:
        answer = await stream.get_final_message()
    text, use = answer.content
    assert (text.text, use.input) == (providers.script.text, {"where": "up"})
    assert answer.stop_reason == "tool_use"
    assert answer.usage.output_tokens == providers.calls[0].output_tokens


async def test_scripts_are_one_reply_several_or_a_function(providers: FakeProviders, gpt: openai.AsyncOpenAI) -> None:
    async def said() -> str | None:
        return (await gpt.chat.completions.create(**ASK)).choices[0].message.content

    providers.script = [reply("1"), reply("2")]
    assert [await said() for _ in range(3)] == ["1", "2", "2"]
    providers.script = reply("always")
    assert [await said() for _ in range(2)] == ["always", "always"]
    providers.script = lambda call: reply(f"call {call.number}")
    assert await said() == "call 6"

    async def later(call: Call) -> Reply:
        return reply(call.prompt)

    providers.script = later
    assert await said() == "how are you?"


async def test_refusals_in_both_protocols(
    providers: FakeProviders, gpt: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    providers.script = refused(429, retry_after_s=2)
    with pytest.raises(openai.RateLimitError) as limited:
        await gpt.chat.completions.create(**ASK)
    assert limited.value.response.headers["retry-after"] == "2"
    with pytest.raises(anthropic.RateLimitError):
        await claude.messages.create(**ASK, max_tokens=1)
    for status, error in ((413, openai.APIStatusError), (500, openai.InternalServerError)):
        providers.script = refused(status)
        with pytest.raises(error) as told:
            await gpt.chat.completions.create(**ASK)
        assert told.value.status_code == status
    assert [call.status for call in providers.calls] == [429, 429, 413, 500]
    assert not providers.answered()
    assert sum(call.input_tokens for call in providers.calls) == 0


async def test_what_is_broken(providers: FakeProviders, gpt: openai.AsyncOpenAI) -> None:
    providers.script = hang_up()
    with pytest.raises(openai.APIConnectionError):
        await gpt.chat.completions.create(**ASK)
    providers.script = hang_up("many pieces, more than are sent before it breaks", after_pieces=2)
    with pytest.raises(openai.APIConnectionError):
        await text_of_gpt(gpt)
    providers.script = raw(b'{"choices": [')
    with pytest.raises(ValueError, match="Expecting value"):
        await gpt.chat.completions.create(**ASK)
    # The client may have read an answer before the provider notes that it is sent.
    await eventually(lambda: all(call.fate != "open" for call in providers.calls), "the provider has done with them")
    assert [call.fate for call in providers.calls] == ["broken", "broken", "sent"]


async def test_never_answers_until_the_client_leaves(providers: FakeProviders, gpt: openai.AsyncOpenAI) -> None:
    providers.script = never()
    asked = asyncio.ensure_future(gpt.chat.completions.create(**ASK))
    await eventually(lambda: len(providers.calls) == 1, "the call")
    asked.cancel()
    await eventually(lambda: providers.calls[0].fate == "left", "the provider sees that the client left")


async def test_held_replies_come_when_they_may(providers: FakeProviders, gpt: openai.AsyncOpenAI) -> None:
    hold = threading.Event()
    providers.script = reply("at last", hold=hold)
    asked = gpt.chat.completions.create(**ASK)

    async def release() -> None:
        await eventually(lambda: len(providers.calls) == 1, "the call")
        assert providers.calls[0].status == 0
        hold.set()

    answer, _ = await asyncio.gather(asked, release())
    assert answer.choices[0].message.content == "at last"


async def test_endless_and_large(providers: FakeProviders, gpt: openai.AsyncOpenAI) -> None:
    providers.script = endless("x" * 1024, size_bytes=300 * 1024)
    assert len(await text_of_gpt(gpt)) == 300 * 1024
    assert len((await gpt.chat.completions.create(**ASK)).choices[0].message.content or "") == 300 * 1024
    providers.script = endless()
    async with await gpt.chat.completions.create(**ASK, stream=True) as stream:
        read = 0
        async for _ in stream:
            read += 1
            if read == 1000:
                break
    await eventually(lambda: providers.calls[-1].fate == "left", "the provider sees that the client left")


async def test_quota_is_enforced_and_says_when(providers: FakeProviders, gpt: openai.AsyncOpenAI) -> None:
    providers.quota = Quota(requests=2, window_s=1000.0)
    for _ in range(2):
        await gpt.chat.completions.create(**ASK)
    with pytest.raises(openai.RateLimitError) as limited:
        await gpt.chat.completions.create(**ASK)
    assert 900 < float(limited.value.response.headers["retry-after"]) <= 1000
    providers.quota = Quota(tokens=5)
    with pytest.raises(openai.APIStatusError) as too_large:
        await gpt.chat.completions.create(**ASK, tools=OPENAI_TOOLS)
    assert too_large.value.status_code == 413


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), max_size=60), st.sampled_from(["sliding", "fixed"]))
def test_no_window_holds_more_than_the_quota(asked: list[tuple[float, int]], kind: Any) -> None:
    quota, now, admitted = Quota(requests=5, tokens=100, window_s=10.0, kind=kind), 0.0, []
    for after_s, tokens in asked:
        now += after_s
        refusal = quota.admit(tokens, now)
        if refusal is None:
            admitted.append((now, tokens))
        else:
            assert refusal.retry_after_s is not None
            assert 0 < refusal.retry_after_s <= 10.0 + 1e-9
    if kind == "sliding":
        for start, _ in admitted:
            window = [tokens for at, tokens in admitted if start <= at < start + 10.0]
            assert len(window) <= 5
            assert sum(window) <= 100


@given(st.integers(1, 100))
def test_who_waits_as_told_is_admitted(tokens: int) -> None:
    for kind in ("sliding", "fixed"):
        quota = Quota(tokens=100, window_s=10.0, kind=kind)  # type: ignore[arg-type]
        assert quota.admit(60, 0.0) is None
        refusal = quota.admit(tokens, 1.0)
        if refusal is not None:
            assert refusal.retry_after_s is not None
            assert quota.admit(tokens, math.nextafter(1.0 + refusal.retry_after_s, math.inf)) is None
