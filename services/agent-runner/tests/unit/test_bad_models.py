"""Models that misbehave: each ends in its category, within its limits, and the runner goes on."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.errors import RetryableFailure, StepFailure, TerminalFailure
from millrace_agent_runner.executors.agent import bodies
from millrace_agent_runner.executors.agent.executor import AgentExecutor
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads
from millrace_shared.testing.providers import (
    FakeProviders,
    ToolCall,
    calls,
    endless,
    hang_up,
    never,
    raw,
    refused,
    reply,
)

MODELS = ["openai:m", "anthropic:m"]
MEGABYTE = 1024 * 1024


class Unheard:
    def llm_call(self, fact: Any) -> None: ...
    def token_delta(self, fact: Any) -> None: ...
    def budget_breached(self, fact: Any) -> None: ...


@pytest.fixture
async def executor(providers: FakeProviders, journals: Any) -> AsyncIterator[AgentExecutor]:
    http = HttpExecutor(Allowed())
    keys = {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": providers.anthropic_url}
    python = PythonExecutor(Functions(()), Threads(2))
    agents = AgentExecutor(Unheard(), journals, http, python, keys, providers.openai_url)
    yield agents
    await agents.close()
    await http.close()


@pytest.fixture
def run(executor: AgentExecutor, step_factory: Any, attempt_factory: Any) -> Any:
    async def perform(model: str, **agent: Any) -> Any:
        spec = {"agent": {"model": model, **agent}}
        return await executor(attempt_factory(step_factory("agent", spec, {"prompt": "Hello?"})))

    return perform


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("streaming_enabled", [True, False])
@pytest.mark.parametrize(
    "body",
    [b"{", b"null", b"[]", b'"text"', b"<html>welcome</html>", b"\xff\xfe\x00", b'{"choices":[],"content":[]}'],
    ids=["cut", "null", "array", "text", "html", "binary", "empty"],
)
async def test_garbage_is_an_invalid_output(
    run: Any, providers: FakeProviders, model: str, streaming_enabled: bool, body: bytes
) -> None:
    providers.script = raw(body)
    with pytest.raises(RetryableFailure) as caught:
        await run(model, streaming_enabled=streaming_enabled)
    assert caught.value.category == "llm_invalid_output"
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize("model", MODELS)
async def test_tools_that_do_not_exist_end_a_run(run: Any, providers: FakeProviders, model: str) -> None:
    providers.script = reply(None, calls("launch_missiles"))
    with pytest.raises(RetryableFailure) as caught:
        await run(model, tools=["fib"])
    assert caught.value.category == "llm_invalid_output"
    assert len(providers.calls) <= 4


@pytest.mark.parametrize("model", MODELS)
async def test_arguments_that_are_no_json_end_a_run(run: Any, providers: FakeProviders, model: str) -> None:
    providers.script = reply(None, ToolCall("fib", '{"n": '))
    with pytest.raises(StepFailure) as caught:
        await run(model, tools=["fib"])
    assert caught.value.category in {"llm_invalid_output", "budget_exceeded"}


@pytest.mark.parametrize("model", MODELS)
async def test_a_loop_ends_at_its_limit(run: Any, providers: FakeProviders, model: str) -> None:
    providers.script = lambda call: reply(None, calls("fib", n=len(call.messages)))
    with pytest.raises(TerminalFailure) as caught:
        await run(model, tools=["fib"], limits={"max_iterations": 5})
    assert (caught.value.category, caught.value.code) == ("budget_exceeded", "agent_limit_exceeded")
    assert len(providers.calls) == 5


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("streaming_enabled", [True, False])
async def test_an_answer_without_end_is_cut_off(
    run: Any, providers: FakeProviders, model: str, streaming_enabled: bool, monkeypatch: Any
) -> None:
    monkeypatch.setattr(bodies, "BODY_BYTES_MAX", MEGABYTE)
    providers.script = endless() if streaming_enabled else endless(size_bytes=50 * MEGABYTE)
    with pytest.raises(RetryableFailure) as caught:
        await run(model, streaming_enabled=streaming_enabled)
    assert (caught.value.category, caught.value.code) == ("llm_invalid_output", "answer_too_long")


def test_fifty_megabytes_are_beyond_the_limit() -> None:
    assert MEGABYTE < bodies.BODY_BYTES_MAX < 50 * MEGABYTE


async def test_compressed_answers_are_not_taken() -> None:
    import httpx2

    response = httpx2.Response(200, headers={"content-encoding": "gzip"}, content=b"", request=None)
    with pytest.raises(bodies.BodyRefused, match="compressed"):
        await bodies.bound_body(response)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("streaming_enabled", [True, False])
async def test_a_model_that_never_answers_holds_up_nobody(
    run: Any, providers: FakeProviders, model: str, streaming_enabled: bool
) -> None:
    providers.script = lambda call: never() if call.model == "mute" else reply("hello")
    mute = asyncio.create_task(run(model.replace(":m", ":mute"), timeout=1.0, streaming_enabled=streaming_enabled))
    assert await run(model, streaming_enabled=streaming_enabled) == "hello"
    with pytest.raises(RetryableFailure) as caught:
        await mute
    assert caught.value.category == "llm_timeout"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("pieces", [0, 3])
async def test_a_stream_that_breaks_may_be_tried_again(
    run: Any, providers: FakeProviders, model: str, pieces: int
) -> None:
    providers.script = hang_up(after_pieces=pieces)
    with pytest.raises(RetryableFailure) as caught:
        await run(model)
    assert caught.value.category == "connection"


@pytest.mark.parametrize("streaming_enabled", [True, False])
async def test_the_next_model_is_asked_when_one_cannot_answer(
    run: Any, providers: FakeProviders, streaming_enabled: bool
) -> None:
    asked: list[str] = []

    def script(call: Any) -> Any:
        asked.append(call.model)
        return {"a": refused(500), "b": refused(401)}.get(call.model, reply("c says hello"))

    providers.script = script
    names = ["anthropic:b", "openai:c"]
    assert await run("openai:a", fallback_models=names, streaming_enabled=streaming_enabled) == "c says hello"
    assert asked == ["a", "b", "c"]


@pytest.mark.parametrize("streaming_enabled", [True, False])
async def test_when_no_model_can_answer_all_reasons_are_told(
    run: Any, providers: FakeProviders, streaming_enabled: bool
) -> None:
    providers.script = lambda call: refused(401) if call.model == "a" else refused(429, retry_after_s=7)
    with pytest.raises(RetryableFailure) as caught:
        await run("openai:a", fallback_models=["openai:b"], streaming_enabled=streaming_enabled)
    assert (caught.value.category, caught.value.retry_after_s) == ("llm_rate_limit", 7)
    assert "1. a answered 401" in str(caught.value)
    assert "2. b answered 429" in str(caught.value)


async def test_a_quota_that_is_used_up_is_no_limit_that_passes(run: Any, providers: FakeProviders) -> None:
    providers.script = refused(429, "insufficient_quota", "You exceeded your current quota")
    with pytest.raises(TerminalFailure) as caught:
        await run("openai:a")
    assert (caught.value.category, caught.value.code) == ("budget_exceeded", "quota_exceeded")


async def test_a_text_that_does_not_match_is_corrected(
    executor: AgentExecutor, providers: FakeProviders, step_factory: Any, attempt_factory: Any
) -> None:
    providers.script = lambda call: reply("ok" if "does not match" in call.prompt else "far too long")
    spec = {"agent": {"model": "openai:m"}, "output": {"type": "string", "maxLength": 5}}
    assert await executor(attempt_factory(step_factory("agent", spec, {"prompt": "Be short."}))) == "ok"
    assert len(providers.calls) == 2
