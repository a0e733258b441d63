"""A model that reports each of its calls: what was used, what it cost, how long it took, and how it ended.

The record is made where the call is made, so a run that fails half-way, is stopped, or is refused is accounted for too.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from millrace_agent_runner import metrics
from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.outcome import error_of
from millrace_agent_runner.domain.prices import NONE, OwnPrices
from millrace_agent_runner.domain.usage import plus
from millrace_agent_runner.executors.agent.executor import CallFacts
from millrace_agent_runner.executors.agent.failures import failure_of
from millrace_agent_runner.executors.agent.models import KEYS, OFFLINE
from millrace_agent_runner.executors.agent.pricing import NOTHING, UNKNOWN, price_of
from millrace_shared.messages import ErrorInfo, LlmCall, Usage

_NOTHING_USED = RequestUsage()
_INTERRUPTED = ErrorInfo(
    code="interrupted",
    category="cancelled",
    message="the call was stopped before its end: the time was up, the execution was cancelled, or a limit was reached",
)


class MeteredModel(WrapperModel):
    """Wraps the model of one attempt.

    Args:
        wrapped: the model.
        name: `provider:model`, as the definition has it.
        endpoint: the address in place of the provider's own, if any.
        attempt: whose `usage` grows with each call.
        facts: where calls are reported.
        keys: what errors must not show.
        prices: those of the operator.
    """

    def __init__(
        self,
        wrapped: Model,
        name: str,
        endpoint: str | None,
        attempt: Attempt,
        facts: CallFacts,
        keys: tuple[str, ...],
        prices: OwnPrices = NONE,
    ) -> None:
        super().__init__(wrapped)
        self._name = name
        self._provider_name, _, self._model = name.partition(":")
        self._endpoint = endpoint
        self._attempt = attempt
        self._facts = facts
        self._keys = keys
        self._prices = prices

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Call the model and report it."""
        started_at, started = time.time(), time.perf_counter()
        try:
            response = await super().request(messages, model_settings, model_request_parameters)
        except BaseException as error:
            self._report(started_at, started, _NOTHING_USED, error=error)
            raise
        self._report(started_at, started, response.usage, finish_reason=response.finish_reason)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Call the model, and report it when the stream has ended."""
        started_at, started = time.time(), time.perf_counter()
        stream: StreamedResponse | None = None
        try:
            async with super().request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as stream:
                yield stream
        except BaseException as error:
            usage = stream.usage if stream is not None else _NOTHING_USED
            self._report(started_at, started, usage, error=error)
            raise
        first = stream.time_to_first_chunk(started)
        self._report(started_at, started, stream.usage, finish_reason=stream.finish_reason, first_token_s=first)

    def _report(
        self,
        started_at: float,
        started: float,
        usage: RequestUsage,
        *,
        finish_reason: str | None = None,
        first_token_s: float | None = None,
        error: BaseException | None = None,
    ) -> None:
        self._attempt.reported += 1
        if error is None:
            price = price_of(usage, self._provider_name, self._model, self._endpoint, self._prices)
        else:
            # A request that was refused costs nothing; one that broke off may have been billed.
            price = NOTHING if isinstance(error, ModelHTTPError) or self._provider_name == OFFLINE else UNKNOWN
        step = self._attempt.step
        used = Usage(1, usage.input_tokens, usage.output_tokens, price.cost_usd)
        self._attempt.usage = plus(self._attempt.usage, used)
        info = self._error_info(error)
        self._facts.llm_call(
            LlmCall(
                execution_id=step.execution_id,
                workspace=step.workspace,
                workflow_id=step.workflow_id,
                step=step.step,
                attempt=step.attempt,
                sequence=self._attempt.reported,
                provider=self._provider_name,
                model=self._model,
                at=started_at,
                duration_s=time.perf_counter() - started,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cached_tokens=usage.cache_read_tokens,
                reasoning_tokens=usage.details.get("reasoning_tokens", 0),
                cost_usd=price.cost_usd,
                price_version=price.price_version,
                time_to_first_token_s=first_token_s,
                finish_reason=finish_reason,
                error=info,
                item=step.item,
            )
        )
        provider = self._provider_name if self._provider_name in KEYS or self._provider_name == OFFLINE else "other"
        metrics.llm_calls.labels(provider, info.category if info else "ok").inc()
        metrics.llm_tokens.labels(provider, "input").inc(usage.input_tokens)
        metrics.llm_tokens.labels(provider, "output").inc(usage.output_tokens)

    def _error_info(self, error: BaseException | None) -> ErrorInfo | None:
        if error is None:
            return None
        if not isinstance(error, Exception):
            return _INTERRUPTED
        return error_of(failure_of(error, self._name, self._keys), self._attempt.secrets)
