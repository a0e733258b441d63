"""A model's answer as it comes, in pieces for live viewers: at most ten a second for each step.

An answer that is read from the journal was shown when it came, so it is not shown again. One that broke off half-way,
because the runner died or the attempt failed, is begun anew: viewers are told that its text is void, before any of the
new one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.executors.agent.executor import CallFacts
from millrace_shared.messages import TokenDelta

PIECE_INTERVAL_S = 0.1
PIECE_CHARS_MAX = 16 * 1024


class LiveModel(WrapperModel):
    """Sees which answers are really given, and shows those. It stands inside of whatever replays answers.

    Args:
        wrapped: gives the answers.
        attempt: whose answers they are; its `resumes` says that one may have been begun before.
        facts: where pieces are published.
    """

    def __init__(self, wrapped: Model, attempt: Attempt, facts: CallFacts) -> None:
        super().__init__(wrapped)
        self._attempt = attempt
        self._facts = facts
        self._is_open = False
        self._turn = -1
        self._may_be_begun = attempt.resumes or attempt.step.attempt > 1
        self._text: list[str] = []
        self._sequence = 0
        self._published_at = time.monotonic()

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Call the model; what its stream brings is shown by `show`, which pydantic-ai calls meanwhile."""
        async with super().request_stream(messages, model_settings, model_request_parameters, run_context) as stream:
            turn = sum(isinstance(message, ModelResponse) for message in messages)
            is_again = self._may_be_begun or turn <= self._turn
            self._may_be_begun, self._turn = False, turn
            if is_again:
                self._publish_piece("", restarted=True)
            self._is_open = True
            try:
                yield stream
            finally:
                self._is_open = False

    async def show(self, _: RunContext[Any], events: AsyncIterable[Any]) -> None:
        """Follow the events of one part of a run: an event handler of pydantic-ai."""
        async for event in events:
            if not self._is_open:
                continue
            if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                self._text.append(event.part.content)
            elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                self._text.append(event.delta.content_delta)
            if self._text and time.monotonic() - self._published_at >= PIECE_INTERVAL_S:
                self._publish()
        self._publish()

    def _publish(self) -> None:
        text = "".join(self._text)
        self._text.clear()
        for start in range(0, len(text), PIECE_CHARS_MAX):
            self._publish_piece(text[start : start + PIECE_CHARS_MAX])
        if text:
            self._published_at = time.monotonic()

    def _publish_piece(self, text: str, *, restarted: bool = False) -> None:
        step = self._attempt.step
        self._sequence += 1
        self._facts.token_delta(
            TokenDelta(
                execution_id=step.execution_id,
                step=step.step,
                attempt=step.attempt,
                sequence=self._sequence,
                text=text,
                at=time.time(),
                item=step.item,
                turn=self._turn,
                iteration=step.iteration,
                restarted=restarted,
            )
        )
