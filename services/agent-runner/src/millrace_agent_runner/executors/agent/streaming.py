"""A model's answer as it comes, in pieces for live viewers: at most ten a second for each step."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.executors.agent.executor import CallFacts
from millrace_shared.messages import TokenDelta

PIECE_INTERVAL_S = 0.1
PIECE_CHARS_MAX = 16 * 1024


class LiveAnswer:
    """Gathers the text of an attempt's answers and publishes it in pieces. An event handler of pydantic-ai."""

    def __init__(self, attempt: Attempt, facts: CallFacts) -> None:
        self._attempt = attempt
        self._facts = facts
        self._text: list[str] = []
        self._sequence = 0
        self._published_at = time.monotonic()

    async def __call__(self, _: RunContext[Any], events: AsyncIterable[Any]) -> None:
        """Follow the events of one part of a run."""
        async for event in events:
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
        step = self._attempt.step
        for start in range(0, len(text), PIECE_CHARS_MAX):
            self._sequence += 1
            self._facts.token_delta(
                TokenDelta(
                    execution_id=step.execution_id,
                    step=step.step,
                    attempt=step.attempt,
                    sequence=self._sequence,
                    text=text[start : start + PIECE_CHARS_MAX],
                    at=time.time(),
                    item=step.item,
                )
            )
        if text:
            self._published_at = time.monotonic()
