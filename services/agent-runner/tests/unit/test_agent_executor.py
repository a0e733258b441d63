import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from millrace.demo.provider import DemoProvider
from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.errors import RetryableFailure, StepFailure, TerminalFailure
from millrace_agent_runner.executors.agent.executor import AgentExecutor
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads
from millrace_shared.messages import LlmCall, TokenDelta

SCORE = {
    "type": "object",
    "required": ["summary", "score"],
    "properties": {"summary": {"type": "string"}, "score": {"type": "number", "minimum": 0, "maximum": 1}},
    "additionalProperties": False,
}


class Recorded:
    def __init__(self) -> None:
        self.calls: list[LlmCall] = []
        self.pieces: list[TokenDelta] = []

    def llm_call(self, fact: LlmCall) -> None:
        self.calls.append(fact)

    def token_delta(self, fact: TokenDelta) -> None:
        self.pieces.append(fact)


@pytest.fixture
async def provider() -> AsyncIterator[DemoProvider]:
    async with DemoProvider() as running:
        yield running


@pytest.fixture
def facts() -> Recorded:
    return Recorded()


@pytest.fixture
async def executor(provider: DemoProvider, facts: Recorded, journals: Any) -> AsyncIterator[AgentExecutor]:
    http = HttpExecutor(Allowed.parse(["127.0.0.0/8"]))
    python = PythonExecutor(Functions(()), Threads(2))
    agents = AgentExecutor(facts, journals, http, python, {}, provider.base_url)
    yield agents
    await agents.close()
    await http.close()


@pytest.fixture
def run(executor: AgentExecutor, step_factory: Any, attempt_factory: Any) -> Any:
    async def perform(agent: dict[str, Any], output: Any = None, **data: Any) -> Any:
        spec = {"agent": {"name": "a", **agent}} | ({"output": output} if output else {})
        attempt = attempt_factory(step_factory("agent", spec, {"prompt": "Why is the sky blue?", **data}))
        perform.usage = None  # type: ignore[attr-defined]
        try:
            return await executor(attempt)
        finally:
            perform.usage = attempt.usage  # type: ignore[attr-defined]

    return perform


async def test_a_text_answer_is_streamed_and_accounted_for(run: Any, facts: Recorded) -> None:
    answer = await run({"model": "openai:mock-1", "instructions": "Be brief."}, input={"depth": 2})
    assert "Why is the sky blue?" in answer
    assert '{"depth":2}' in answer
    assert "".join(piece.text for piece in facts.pieces) == answer
    [call] = facts.calls
    assert (call.provider, call.model, call.sequence, call.error) == ("openai", "mock-1", 1, None)
    assert call.input_tokens > 0
    assert call.output_tokens > 0
    assert call.time_to_first_token_s is not None
    assert call.cost_usd is None  # who answers at this address has no known prices
    assert (run.usage.calls, run.usage.input_tokens) == (1, call.input_tokens)
    assert run.usage.cost_usd is None


async def test_a_structured_answer_matches_its_schema(run: Any) -> None:
    answer = await run({"model": "openai:mock-1"}, SCORE)
    assert set(answer) == {"summary", "score"}
    assert 0 <= answer["score"] <= 1
    assert await run({"model": "openai:mock-1", "output": {"type": "array", "items": {"type": "integer"}}}) == [0]


async def test_an_answer_that_stays_wrong_is_invalid_output(run: Any, provider: DemoProvider) -> None:
    with pytest.raises(RetryableFailure) as caught:
        await run({"model": "openai:mock-badjson"}, SCORE)
    assert caught.value.category == "llm_invalid_output"
    assert provider.calls["mock-badjson"] == 3  # told twice what is wrong
    assert run.usage.calls == 3


async def test_tools_are_called(run: Any, facts: Recorded, provider: DemoProvider) -> None:
    answer = await run({"model": "openai:mock-1", "tools": [{"name": "math.fib", "config": {"call": "fib"}}]})
    assert "Tools said: 0" in answer
    assert [call.sequence for call in facts.calls] == [1, 2]
    assert provider.calls["mock-1"] == 2


@pytest.mark.parametrize(
    ("model", "category", "kind", "words"),
    [
        ("mock-429", "llm_rate_limit", RetryableFailure, "429"),
        ("mock-413", "llm_context_too_large", TerminalFailure, "can never fit"),
        ("mock-context", "llm_context_too_large", TerminalFailure, "context length"),
        ("mock-401", "llm_auth", TerminalFailure, "API key was refused"),
        ("mock-500", "server_error", RetryableFailure, "500"),
        ("mock-503", "server_error", RetryableFailure, "503"),
        ("mock-hangup", "connection", RetryableFailure, "could not be asked"),
    ],
)
@pytest.mark.parametrize("output", [None, SCORE])
async def test_a_providers_errors_are_told_apart(
    run: Any, facts: Recorded, provider: DemoProvider, model: str, category: str, kind: Any, words: str, output: Any
) -> None:
    with pytest.raises(kind) as caught:
        await run({"model": f"openai:{model}"}, output)
    assert caught.value.category == category
    assert words in str(caught.value)
    assert caught.value.retry_after_s == (2 if model == "mock-429" else None)
    assert provider.calls[model] == 1  # the engine retries, the SDK does not
    [call] = facts.calls
    assert call.error is not None
    assert call.error.category == category
    assert call.cost_usd == (None if model == "mock-hangup" else Decimal(0))


async def test_a_key_that_is_missing_is_named(
    facts: Recorded, journals: Any, step_factory: Any, attempt_factory: Any
) -> None:
    python = PythonExecutor(Functions(()), Threads(1))
    executor = AgentExecutor(facts, journals, HttpExecutor(Allowed()), python, {}, None)
    for provider, variable in [
        ("openai", "OPENAI_API_KEY"),
        ("anthropic", "ANTHROPIC_API_KEY"),
        ("groq", "GROQ_API_KEY"),
        ("google", "GOOGLE_API_KEY or GEMINI_API_KEY"),
        ("mistral", "MISTRAL_API_KEY"),
    ]:
        step = step_factory("agent", {"agent": {"model": f"{provider}:m"}}, {"prompt": "x"})
        with pytest.raises(TerminalFailure, match=f"set {variable} ") as caught:
            await executor(attempt_factory(step))
        assert caught.value.category == "llm_auth"
    assert facts.calls == []


async def test_every_provider_has_a_model() -> None:
    from millrace_agent_runner.executors.agent.models import KEYS, Models

    models = Models({name: "k" for names in KEYS.values() for name in names}, None)
    for provider in KEYS:
        assert (await models.get(f"{provider}:some-model")).model_name == "some-model"
    await models.close()


@pytest.mark.parametrize(
    "agent",
    [
        {"model": "nobody:x"},
        {"model": "offline:x", "tools": ["no.such.tool"]},
        {"model": "offline:x", "tools": [{"name": "http.get", "config": {"headers": {"A": "b"}}}]},
        {"model": "offline:x", "tools": [{"name": "x", "config": {"call": "os:system"}}]},
        {"model": 3},
    ],
)
async def test_an_agent_that_cannot_run_fails_for_good(run: Any, facts: Recorded, agent: Any) -> None:
    with pytest.raises(TerminalFailure) as caught:
        await run(agent)
    assert caught.value.category in {"input_invalid", "tool_error"}
    assert facts.calls == []


async def test_limits_end_a_run_and_what_it_used_is_known(run: Any) -> None:
    with pytest.raises(TerminalFailure) as caught:
        await run({"model": "offline:x", "limits": {"total_tokens": 1}})
    assert (caught.value.category, caught.value.code) == ("budget_exceeded", "agent_limit_exceeded")
    assert run.usage.calls == 1
    with pytest.raises(StepFailure) as caught:
        await run({"model": "openai:mock-1", "tools": ["fib"], "limits": {"max_iterations": 1}})
    assert caught.value.category == "budget_exceeded"


async def test_the_offline_model_says_that_it_is_none(run: Any, facts: Recorded, provider: DemoProvider) -> None:
    assert (await run({"model": "offline:demo"})).startswith("[offline model: no LLM was called]")
    assert (await run({"model": "offline:demo"}, SCORE))["summary"] == "[offline model: no LLM was called]"
    assert provider.calls.total() == 0
    assert {call.cost_usd for call in facts.calls} == {Decimal(0)}


def test_prices_go_by_the_provider_and_unknown_is_not_free() -> None:
    from pydantic_ai.usage import RequestUsage

    from millrace_agent_runner.executors.agent.pricing import price_of

    usage = RequestUsage(input_tokens=1_000, output_tokens=100)
    known = price_of(usage, "openai", "gpt-4o", None)
    assert known.cost_usd is not None
    assert known.cost_usd > 0
    assert known.price_version is not None
    assert price_of(usage, "openai", "gpt-4o", "http://127.0.0.1:1/v1").cost_usd is None
    assert price_of(usage, "openai", "no-such-model", None).cost_usd is None
    assert price_of(RequestUsage(), "openai", "gpt-4o", None).cost_usd is None


@pytest.mark.parametrize("output", [None, SCORE])
async def test_a_call_that_is_stopped_is_accounted_for_as_of_unknown_cost(
    executor: AgentExecutor,
    facts: Recorded,
    provider: DemoProvider,
    step_factory: Any,
    attempt_factory: Any,
    output: Any,
) -> None:
    spec = {"agent": {"model": "openai:mock-slow-60"}} | ({"output": output} if output else {})
    attempt = attempt_factory(step_factory("agent", spec, {"prompt": "Take your time."}))
    task = asyncio.create_task(executor(attempt))
    async with asyncio.timeout(60):
        while not provider.calls:  # noqa: ASYNC110  the provider is an ordinary server, it sets no event
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [call] = facts.calls
    assert call.error is not None
    assert (call.error.code, call.cost_usd) == ("interrupted", None)
    assert attempt.usage.calls == 1
    assert attempt.usage.cost_usd is None
