"""A model and tools whose answers and results are durable before anything follows from them.

What the journal has is given again: it costs nothing, passes no limit, and is not reported a second time. A tool says
in its metadata how it may be treated after a crash:

| mark | meaning |
|---|---|
| `idempotent` | true: it is called again when it is not known how a call ended. Otherwise each call is announced |
| `on_unknown` | what happens then to one that is not: `tell` the model (the default), or `fail` the step |
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_ai import ModelRetry, RunContext, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.toolsets import ToolsetTool, WrapperToolset
from pydantic_core import to_jsonable_python

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.journal import (
    Abandoned,
    Conversation,
    Entry,
    Journal,
    Journals,
    Responded,
    ToolBegun,
    ToolEnded,
)
from millrace_agent_runner.domain.usage import plus, since
from millrace_agent_runner.errors import StepFailure, TerminalFailure
from millrace_agent_runner.executors.agent.replay import (
    dump_response,
    fingerprint_of,
    hide,
    key_of_call,
    load_response,
    show,
)
from millrace_shared.ids import attempt_key

IDEMPOTENT = "idempotent"
ON_UNKNOWN = "on_unknown"
_FAIL = "fail"
_CUT_OFF = "was called with these arguments, and the runner ended before it was known what came of that"
_LOST = "was called before in this step, in a part of the conversation that led nowhere"


class Recorder:
    """The conversation of one attempt, and its journal.

    Args:
        attempt: the attempt; what was used for answers that it recorded before a crash counts as its own.
        journal: opened for it.
    """

    def __init__(self, attempt: Attempt, journal: Journal) -> None:
        step = attempt.step
        self._attempt = attempt
        self._journal = journal
        name = f"{step.execution_id} {attempt_key(step.step, step.item, step.attempt)}"
        self.conversation = Conversation(journal.entries, name)
        self._told = attempt.usage
        for usage in self.conversation.usage_of(step.attempt):
            attempt.usage = self._told = plus(self._told, usage)
        attempt.reported = self.conversation.reported

    @classmethod
    async def of(cls, attempt: Attempt, journals: Journals) -> Recorder:
        """Open the journal of an attempt.

        Raises:
            TakenOver: another runner has it.
        """
        return cls(attempt, await journals.open(attempt.step, resumes=attempt.resumes))

    @property
    def secrets(self) -> tuple[str, ...]:
        """What the journal must not hold."""
        return self._attempt.secrets

    def calling(self) -> None:
        """A call to a model is about to be made: number it."""
        self._attempt.call = self.conversation.answered + 1

    async def answered(self, fingerprint: str, response: ModelResponse) -> None:
        """Record an answer."""
        used = since(self._told, self._attempt.usage)
        await self._record(
            Responded(
                turn=self.conversation.turn,
                fingerprint=fingerprint,
                body=await self._journal.pack(dump_response(response, self.secrets)),
                attempt=self._attempt.step.attempt,
                at=time.time(),
                runner=self._journal.runner,
                usage=used,
                reported=self._attempt.reported,
            )
        )
        self._told = self._attempt.usage

    async def recorded_response(self, fingerprint: str) -> ModelResponse | None:
        """Return the recorded answer to the next request, or None."""
        known = self.conversation.replay(fingerprint)
        return None if known is None else load_response(await self._journal.unpack(known.body), self.secrets)

    async def tool_begins(self, key: str, tool: str) -> None:
        """Record that a tool is about to be called."""
        step = self._attempt.step
        turn = self.conversation.turn - 1
        await self._record(ToolBegun(turn, key, tool, step.attempt, time.time(), self._journal.runner))

    async def tool_ended(
        self, key: str, tool: str, outcome: Literal["returned", "failed", "retry", "raised"], result: Any
    ) -> None:
        """Record what a call of a tool came to."""
        step = self._attempt.step
        turn = self.conversation.turn - 1
        body = await self._journal.pack(hide(to_jsonable_python(result), self.secrets))
        await self._record(ToolEnded(turn, key, tool, outcome, body, step.attempt, time.time(), self._journal.runner))

    async def recorded_result(self, ended: ToolEnded) -> Any:
        """Return what a call of a tool came to."""
        return show(await self._journal.unpack(ended.body), self.secrets)

    async def abandon(self, reason: str) -> None:
        """Record that the conversation led nowhere, so that the next attempt does not follow it to the same end."""
        if self.conversation.answered:
            await self._record(Abandoned(reason, self._attempt.step.attempt, time.time(), self._journal.runner))

    async def _record(self, entry: Entry) -> None:
        await self._journal.append(entry)
        self.conversation.record(entry)


class JournaledModel(WrapperModel):
    """Answers from the journal, or asks the wrapped model and records its answer before returning it.

    Args:
        wrapped: the model.
        recorder: the conversation.
    """

    def __init__(self, wrapped: Model, recorder: Recorder) -> None:
        super().__init__(wrapped)
        self._recorder = recorder

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Return the answer to the next request."""
        fingerprint = fingerprint_of(messages, self._recorder.secrets)
        known = await self._recorder.recorded_response(fingerprint)
        if known is not None:
            return known
        self._recorder.calling()
        response = await super().request(messages, model_settings, model_request_parameters)
        await self._recorder.answered(fingerprint, response)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Stream the answer to the next request; one from the journal comes in one piece."""
        fingerprint = fingerprint_of(messages, self._recorder.secrets)
        known = await self._recorder.recorded_response(fingerprint)
        if known is not None:
            yield CompletedStreamedResponse(
                known, model_request_parameters=model_request_parameters, replay_events=True
            )
            return
        self._recorder.calling()
        async with super().request_stream(messages, model_settings, model_request_parameters, run_context) as stream:
            yield stream
        # Its cost and usage are known only when the layers below have closed it.
        await self._recorder.answered(fingerprint, stream.get())


@dataclass
class JournaledTools(WrapperToolset[None]):
    """Calls tools, or gives again what they gave."""

    recorder: Recorder

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[None], tool: ToolsetTool[None]
    ) -> Any:
        """Return the result of a call; it is durable.

        Raises:
            ModelRetry, ToolFailed: what the model is told.
            StepFailure: what the attempt fails by.
        """
        key = key_of_call(ctx.tool_call_id, name, tool_args, self.recorder.secrets)
        known = self.recorder.conversation.tool(key)
        marks = tool.tool_def.metadata or {}
        if known == "unknown":
            return await self._unknown(key, name, marks, _CUT_OFF)
        if known is not None:
            return _again(known.outcome, await self.recorder.recorded_result(known))
        is_idempotent = bool(marks.get(IDEMPOTENT))
        if not is_idempotent:
            if name in self.recorder.conversation.lost:
                return await self._unknown(key, name, marks, _LOST)
            await self.recorder.tool_begins(key, name)
        try:
            result = await super().call_tool(name, tool_args, ctx, tool)
        except ToolFailed as failure:
            await self.recorder.tool_ended(key, name, "failed", failure.message)
            raise
        except ModelRetry as failure:
            await self.recorder.tool_ended(key, name, "retry", failure.message)
            raise
        except StepFailure:
            if not is_idempotent:
                await self.recorder.tool_ended(key, name, "raised", None)
            raise
        await self.recorder.tool_ended(key, name, "returned", result)
        return result

    async def _unknown(self, key: str, name: str, marks: dict[str, Any], what: str) -> Any:
        if marks.get(ON_UNKNOWN) == _FAIL:
            raise TerminalFailure(
                f'the tool "{name}" {what}; it is not repeated, since it is not marked `idempotent`. See what it did, '
                "then retry the execution",
                category="tool_error",
                code="tool_outcome_unknown",
            )
        message = (
            f"{name} {what}: it may have done its work or not. It was not repeated. Find out what is the case before "
            "you call it again, or go on without it."
        )
        await self.recorder.tool_ended(key, name, "failed", message)
        raise ToolFailed(message)


def _again(outcome: str, result: Any) -> Any:
    if outcome == "failed":
        raise ToolFailed(result)
    if outcome == "retry":
        raise ModelRetry(result)
    return result


__all__ = ["IDEMPOTENT", "ON_UNKNOWN", "JournaledModel", "JournaledTools", "Recorder"]
