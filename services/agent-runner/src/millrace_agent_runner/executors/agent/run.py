"""One run of an agent: prompt in, answer out, within its limits."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from pydantic_ai import Agent, ModelRetry, StructuredDict
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset
from pydantic_ai.usage import UsageLimits

from millrace_agent_runner.domain.attempt import NULL, Attempt, current, present
from millrace_agent_runner.domain.journal import Journals
from millrace_agent_runner.domain.schemas import check_output
from millrace_agent_runner.errors import Deferred, TakenOver, TerminalFailure
from millrace_agent_runner.executors.agent.executor import CallFacts
from millrace_agent_runner.executors.agent.failures import failure_of
from millrace_agent_runner.executors.agent.journaled import JournaledModel, JournaledTools, Recorder
from millrace_agent_runner.executors.agent.metering import MeteredModel
from millrace_agent_runner.executors.agent.models import Models
from millrace_agent_runner.executors.agent.streaming import LiveModel
from millrace_agent_runner.executors.agent.tools import Tools

__all__ = ["AgentRuns", "Models", "Tools"]

CORRECTIONS_MAX = 2
"""How often a model is told what is wrong with its answer, or with its call of a tool, before the attempt fails."""
LED_NOWHERE = frozenset({"invalid_output", "refusal"})
"""Failures that the answers themselves brought about: the next attempt asks anew, in place of following them again."""
ITERATIONS_DEFAULT = 15
_WRAPPER = "value"
"""Providers take objects only, so another kind of value travels as the one member of an object."""


class _Limits(msgspec.Struct, frozen=True):
    max_iterations: int = ITERATIONS_DEFAULT
    total_tokens: int | None = None


class _Tool(msgspec.Struct, frozen=True):
    name: str
    config: dict[str, Any] = {}


class _AgentSpec(msgspec.Struct, frozen=True):
    """What of the definition's `Agent` a run needs."""

    model: str
    name: str = "agent"
    instructions: str | None = None
    tools: tuple[str | _Tool, ...] = ()
    temperature: float | None = None
    output: msgspec.Raw = NULL
    limits: _Limits = _Limits()


class _Input(msgspec.Struct, frozen=True):
    """The resolved input of an agent step; see `WorkflowDefinition.template_of`."""

    prompt: str = ""
    input: Any = None
    instructions: str | None = None
    tools: dict[str, Any] = {}


_spec_decoder = msgspec.json.Decoder(_AgentSpec)


class AgentRuns:
    """Runs agents.

    Args:
        models: makes models.
        tools: makes tools.
        facts: where calls to models are reported.
        journals: where conversations are recorded.
    """

    def __init__(self, models: Models, tools: Tools, facts: CallFacts, journals: Journals) -> None:
        self._models = models
        self._tools = tools
        self._facts = facts
        self._journals = journals

    async def close(self) -> None:
        """Close the connections to providers."""
        await self._models.close()

    async def run(self, attempt: Attempt) -> Any:
        """Run the agent of an attempt and return its answer.

        Raises:
            StepFailure: it came to none.
            Deferred: it goes on later.
            TakenOver: it goes on elsewhere.
        """
        spec, data = _decoded(attempt)
        current.set(attempt)
        names = tuple(tool if isinstance(tool, str) else tool.name for tool in spec.tools)
        configs = {tool.name: tool.config for tool in spec.tools if isinstance(tool, _Tool)} | data.tools
        tools = self._tools.build(names, configs, attempt)
        metered = MeteredModel(
            await self._models.get(spec.model),
            spec.model,
            self._models.endpoint(spec.model.partition(":")[0]),
            attempt,
            self._facts,
            self._models.keys,
        )
        live = LiveModel(metered, attempt, self._facts)
        schema = _schema_of(attempt, spec)
        recorder = await Recorder.of(attempt, self._journals)
        toolset = JournaledTools(FunctionToolset(tools), recorder)
        agent = _agent(spec, data, JournaledModel(live, recorder), toolset, schema)
        try:
            result = await agent.run(
                _prompt(data),
                usage_limits=UsageLimits(
                    request_limit=spec.limits.max_iterations, total_tokens_limit=spec.limits.total_tokens
                ),
                # A structured answer has no text to show while it comes.
                event_stream_handler=live.show if schema is None else None,
            )
        except (Deferred, TakenOver):
            raise
        except Exception as error:
            failure = failure_of(error, spec.model, self._models.keys)
            if failure.category in LED_NOWHERE:
                await recorder.abandon(failure.code)
            raise failure from error
        return _unwrapped(result.output, schema)


def _decoded(attempt: Attempt) -> tuple[_AgentSpec, _Input]:
    raw = present(attempt.spec.agent)
    if raw is None:
        raise TerminalFailure("the step names no agent", category="input_invalid", code="spec_invalid")
    try:
        return _spec_decoder.decode(raw), msgspec.convert(attempt.input or {}, _Input)
    except msgspec.ValidationError as error:
        message = f"the agent or its input is not one that this runner knows: {error}"
        raise TerminalFailure(message, category="input_invalid", code="agent_invalid") from error


def _schema_of(attempt: Attempt, spec: _AgentSpec) -> bytes | None:
    """The JSON Schema of the answer; a step's own goes before the agent's. None: the answer is text."""
    schema = attempt.spec.output_schema or present(spec.output)
    return None if schema is None or _is_text(msgspec.json.decode(schema)) else schema


def _is_text(schema: Any) -> bool:
    return schema is True or (isinstance(schema, dict) and schema.get("type") == "string" and "enum" not in schema)


def _agent(
    spec: _AgentSpec, data: _Input, model: Model, tools: AbstractToolset[None], schema: bytes | None
) -> Agent[None, Any]:
    settings = ModelSettings() if spec.temperature is None else ModelSettings(temperature=spec.temperature)
    instructions = data.instructions if data.instructions is not None else spec.instructions
    output_type: Any = str if schema is None else StructuredDict(_as_object(schema), name="answer")
    agent = cast(
        "Agent[None, Any]",
        Agent(
            model,
            name=spec.name,
            instructions=instructions,
            toolsets=[tools],
            output_type=output_type,
            model_settings=settings,
            retries=CORRECTIONS_MAX,
        ),
    )
    if schema is not None:

        @agent.output_validator
        def check(answer: Any) -> Any:
            try:
                check_output(schema, _unwrapped(answer, schema))
            except TerminalFailure as error:
                raise ModelRetry(str(error)) from error
            return answer

    return agent


def _as_object(schema: bytes) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(schema)
    if _is_object(decoded):
        return decoded
    definitions: dict[str, Any] = {key: decoded[key] for key in ("$defs", "definitions") if key in decoded}
    inner = {key: part for key, part in decoded.items() if key not in definitions}
    return {"type": "object", "properties": {_WRAPPER: inner}, "required": [_WRAPPER], **definitions}


def _unwrapped(answer: Any, schema: bytes | None) -> Any:
    if schema is None or _is_object(msgspec.json.decode(schema)):
        return answer
    return answer.get(_WRAPPER) if isinstance(answer, dict) else answer


def _is_object(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"


def _prompt(data: _Input) -> str:
    if data.input is None:
        return data.prompt
    return f"{data.prompt}\n\nInput (JSON):\n{msgspec.json.encode(data.input).decode()}"
