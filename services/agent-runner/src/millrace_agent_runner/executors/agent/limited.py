"""A model that calls its provider only when every rate limit has room, and gives the slot back when that takes long.

Estimate, reserve, call, settle: what a call will use is taken from all limits that hold for it before it is made, and
corrected by what it did use. A response that comes from the journal never gets here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

from pydantic_ai import RunContext
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, ModelRateLimitError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from millrace_agent_runner import metrics
from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.estimates import Estimate, Learned
from millrace_agent_runner.domain.limits import Demand, Grant, Wait
from millrace_agent_runner.errors import Deferred, LimitsUnavailable, TerminalFailure
from millrace_agent_runner.executors.agent.prompt_tokens import prompt_tokens
from millrace_agent_runner.executors.http import RETRY_AFTER_S_MAX
from millrace_shared.messages import Deferral

IN_PLACE_S = 2.0
"""Whoever has to wait longer gives the slot back."""
UNAVAILABLE = "the database that holds the rate limits, which does not answer"
UNAVAILABLE_S = 5.0
"""When to ask again while the limits cannot be read."""


class Limits(Protocol):
    """Limits that all runners share; `adapters.limits.Limits` is one."""

    def learned(self, provider: str, model: str) -> Learned:
        """Return what is known about the calls of a model."""

    def demands(self, workspace: str, provider: str, model: str, tokens: int) -> list[Demand]:
        """Return what a call asks for under the limits that hold for it."""

    def pause_s(self, provider: str, model: str) -> float:
        """Return for how long a model may not be called."""

    async def reserve(self, conversation: str, model: tuple[str, str], demands: Sequence[Demand]) -> Grant | Wait:
        """Take all that a call asks for, or a place in the line."""

    def settle(self, grant: Grant, tokens: int) -> None:
        """Put what a call did use in the place of what was thought."""

    def learn(self, provider: str, model: str, counted: int, input_tokens: int, output_tokens: int) -> None:
        """Correct the estimates of a model by what a call used."""

    def block(self, provider: str, model: str, pause_s: float) -> None:
        """Let no runner call a model for a while."""


class LimitedModel(WrapperModel):
    """Wraps the model of one attempt.

    Args:
        wrapped: the model.
        name: `provider:model`, as the definition has it.
        attempt: whose calls they are.
        limits: what they may use.
    """

    def __init__(self, wrapped: Model, name: str, attempt: Attempt, limits: Limits) -> None:
        super().__init__(wrapped)
        self._name = name
        self._provider_name, _, self._model = name.partition(":")
        self._attempt = attempt
        self._limits = limits

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Call the model when there is room.

        Raises:
            Deferred: there will be, later.
            TerminalFailure: there never will.
        """
        estimate = self._estimate(messages, model_settings, model_request_parameters)
        grant = await self._reserved(estimate)
        with self._told_of_refusals(grant):
            response = await super().request(messages, model_settings, model_request_parameters)
        self._settle(grant, estimate, response.usage)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Call the model when there is room, as `request` does. A stream that breaks off has used what was thought."""
        estimate = self._estimate(messages, model_settings, model_request_parameters)
        grant = await self._reserved(estimate)
        with self._told_of_refusals(grant):
            async with super().request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as stream:
                yield stream
        self._settle(grant, estimate, stream.usage)

    async def _reserved(self, estimate: Estimate) -> Grant:
        """Wait in place for what is near, and leave for what is far."""
        demands = self._demands(estimate)
        waited_s = 0.0
        while True:
            found = await self._reserve(demands)
            if isinstance(found, Grant):
                metrics.llm_limits.labels("waited" if waited_s else "at_once").inc()
                return found
            if waited_s + found.wait_s > IN_PLACE_S:
                metrics.llm_limits.labels("deferred").inc()
                about = f"{found.reason}, about {max(1, round(found.wait_s)):,} s"
                raise Deferred(Deferral(time.time() + found.return_s, "tokens", about))
            waited_s += found.wait_s
            await asyncio.sleep(found.wait_s)

    async def _reserve(self, demands: Sequence[Demand]) -> Grant | Wait:
        if not demands:
            pause_s = self._limits.pause_s(self._provider_name, self._model)
            reason = f"a pause that {self._provider_name} asked for"
            return Wait(pause_s, pause_s, reason) if pause_s else Grant()
        step = self._attempt.step
        conversation = f"{step.execution_id} {step.step} {step.item} {step.iteration}"
        try:
            return await self._limits.reserve(conversation, (self._provider_name, self._model), demands)
        except LimitsUnavailable as error:
            metrics.llm_limits.labels("unavailable").inc()
            raise Deferred(Deferral(time.time() + UNAVAILABLE_S, "tokens", UNAVAILABLE)) from error

    def _demands(self, estimate: Estimate) -> list[Demand]:
        step = self._attempt.step
        demands = self._limits.demands(step.workspace, self._provider_name, self._model, estimate.tokens)
        for demand in demands:
            if demand.kind == "tokens" and estimate.input_tokens > demand.per_minute:
                message = (
                    f"about {estimate.input_tokens:,} tokens of input are more than the {demand.per_minute:,} "
                    f"tokens/min of {demand.limit.name}, so they can never be sent: send less, or raise the rate limit"
                )
                metrics.llm_limits.labels("never_fits").inc()
                raise TerminalFailure(message, category="llm_context_too_large")
        return demands

    def _estimate(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> Estimate:
        learned = self._limits.learned(self._provider_name, self._model)
        return learned.estimate(prompt_tokens(messages, parameters), (settings or {}).get("max_tokens"))

    def _settle(self, grant: Grant, estimate: Estimate, usage: RequestUsage) -> None:
        if not usage.total_tokens:  # the provider does not say
            return
        self._limits.settle(grant, usage.total_tokens)
        self._limits.learn(self._provider_name, self._model, estimate.counted, usage.input_tokens, usage.output_tokens)

    @contextmanager
    def _told_of_refusals(self, grant: Grant) -> Iterator[None]:
        """A request that was refused used no tokens, and a provider that asks for a pause asks all runners."""
        try:
            yield
        except ModelAPIError as error:
            if isinstance(error, ModelHTTPError):
                self._limits.settle(grant, 0)
            if isinstance(error, ModelRateLimitError) and error.retry_after:
                self._limits.block(self._provider_name, self._model, min(error.retry_after, RETRY_AFTER_S_MAX))
            raise
