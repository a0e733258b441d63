"""A model whose calls end in time, with an answer or with a failure that says what was wrong with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from millrace_agent_runner.errors import RetryableFailure

log = logging.getLogger(__name__)

_UNREADABLE = (AttributeError, LookupError, TypeError, ValueError)
"""What providers' libraries raise over an answer of a form that they do not expect."""


class BoundedModel(WrapperModel):
    """Wraps a provider's model.

    Args:
        wrapped: the model.
        name: `provider:model`, as the definition has it.
        timeout_s: the longest time of one call, from the request to the end of the answer.
    """

    def __init__(self, wrapped: Model, name: str, timeout_s: float) -> None:
        super().__init__(wrapped)
        self._name = name
        self._timeout_s = timeout_s

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Call the model.

        Raises:
            RetryableFailure: it did not answer in time, or with something that is no answer.
        """
        with self._told():
            async with asyncio.timeout(self._timeout_s):
                return await super().request(messages, model_settings, model_request_parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Call the model, as `request` does."""
        with self._told():
            async with (
                asyncio.timeout(self._timeout_s),
                super().request_stream(messages, model_settings, model_request_parameters, run_context) as stream,
            ):
                yield stream

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            message = (
                f"{self._name} did not finish its answer within {self._timeout_s:g} s, the agent's `timeout`; "
                "raise it, or use a faster model"
            )
            raise RetryableFailure(message, category="llm_timeout") from error
        except _UNREADABLE as error:
            log.warning("%s gave an answer that its library cannot read", self._name, exc_info=error)
            message = f"{self._name} gave an answer that cannot be read ({type(error).__name__}); the log has more"
            raise RetryableFailure(message, category="llm_invalid_output", code="answer_unreadable") from error
