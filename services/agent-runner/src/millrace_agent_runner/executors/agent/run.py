"""One run of an agent: prompt in, answer out, within its limits."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from pydantic_ai import Agent, RunContext
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset
from pydantic_ai.usage import UsageLimits

from millrace_agent_runner.domain.attempt import NULL, Attempt, current, present
from millrace_agent_runner.domain.guards import Guards
from millrace_agent_runner.domain.journal import Journals
from millrace_agent_runner.errors import Deferred, TakenOver, TerminalFailure
from millrace_agent_runner.executors.agent.answers import AnswerForm, form_of
from millrace_agent_runner.executors.agent.failures import failure_of
from millrace_agent_runner.executors.agent.guards import Guarding
from millrace_agent_runner.executors.agent.journaled import JournaledModel, JournaledTools, Recorder
from millrace_agent_runner.executors.agent.layers import Layers
from millrace_agent_runner.executors.agent.models import Models
from millrace_agent_runner.executors.agent.streaming import LiveModel
from millrace_agent_runner.executors.agent.tools import Tools

__all__ = ["AgentRuns", "Layers", "Models", "Tools"]

CORRECTIONS_MAX = 2
"""How often a model is told what is wrong with its answer, or with its call of a tool, before the attempt fails."""
LED_NOWHERE = frozenset({"invalid_output", "llm_invalid_output", "llm_refusal"})
"""Failures that the answers themselves brought about: the next attempt asks anew, in place of following them again."""
ITERATIONS_DEFAULT = 15


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
    guards: Guards = Guards()
    fallback_models: tuple[str, ...] = ()
    timeout: float | None = None
    streaming_enabled: bool = True


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
        layers: makes models.
        tools: makes tools.
        journals: where conversations are recorded.
    """

    def __init__(self, layers: Layers, tools: Tools, journals: Journals) -> None:
        self._layers = layers
        self._tools = tools
        self._journals = journals

    async def close(self) -> None:
        """Close the connections to providers, and end what tools started."""
        await self._tools.close()
        await self._layers.models.close()

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
        tools = await self._tools.build(names, configs, attempt)
        models = (spec.model, *spec.fallback_models)
        timeout_s = spec.timeout or attempt.step.timeout_s
        live = LiveModel(await self._layers.over(models, attempt, timeout_s), attempt, self._layers.facts)
        form = form_of(attempt.spec.output_schema or present(spec.output))  # a step's own goes before the agent's
        recorder = await Recorder.of(attempt, self._journals)
        toolset = JournaledTools(FunctionToolset(tools), recorder)

        async def judge_of(name: str | None) -> Model:
            names = models if name is None else (name,)
            return JournaledModel(await self._layers.over(names, attempt, timeout_s), recorder)

        guarding = Guarding(spec.guards, attempt, judge_of)
        agent = _agent(spec, data, JournaledModel(live, recorder), toolset, form, guarding)
        streams = spec.streaming_enabled and form.is_text and not spec.guards.hold_back
        try:
            await guarding.check_prompt(_prompt(data))
            result = await agent.run(
                _prompt(data),
                usage_limits=UsageLimits(
                    request_limit=spec.limits.max_iterations, total_tokens_limit=spec.limits.total_tokens
                ),
                # A structured answer has no text to show while it comes, and of a guarded one not all may stay.
                event_stream_handler=live.show if streams else None,
            )
        except (Deferred, TakenOver):
            raise
        except Exception as error:
            failure = failure_of(error, spec.model, self._layers.models.keys)
            if failure.category in LED_NOWHERE:
                await recorder.abandon(failure.code)
            raise failure from error
        return form.value_of(result.output)


def _decoded(attempt: Attempt) -> tuple[_AgentSpec, _Input]:
    raw = present(attempt.spec.agent)
    if raw is None:
        raise TerminalFailure("the step names no agent", category="input_invalid", code="spec_invalid")
    try:
        return _spec_decoder.decode(raw), msgspec.convert(attempt.input or {}, _Input)
    except msgspec.ValidationError as error:
        message = f"the agent or its input is not one that this runner knows: {error}"
        raise TerminalFailure(message, category="input_invalid", code="agent_invalid") from error


def _agent(
    spec: _AgentSpec,
    data: _Input,
    model: Model,
    tools: AbstractToolset[None],
    form: AnswerForm,
    guarding: Guarding,
) -> Agent[None, Any]:
    settings = ModelSettings() if spec.temperature is None else ModelSettings(temperature=spec.temperature)
    instructions = data.instructions if data.instructions is not None else spec.instructions
    agent = cast(
        "Agent[None, Any]",
        Agent(
            model,
            name=spec.name,
            instructions=instructions,
            toolsets=[tools],
            output_type=form.output_type,
            model_settings=settings,
            retries=CORRECTIONS_MAX,
        ),
    )

    @agent.output_validator
    async def check(context: RunContext[None], answer: Any) -> Any:
        value = form.value_of(answer)
        form.check(value)
        await guarding.check_answer(context, value)
        return answer

    return agent


def _prompt(data: _Input) -> str:
    if data.input is None:
        return data.prompt
    return f"{data.prompt}\n\nInput (JSON):\n{msgspec.json.encode(data.input).decode()}"
