"""One attempt, from its work message to its result. The pipeline reads from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from millrace_agent_runner.domain.attempt import Attempt, Executor, Spec, spec_of
from millrace_agent_runner.domain.outcome import CANCELLED, error_of, timed_out
from millrace_agent_runner.domain.schemas import check_output
from millrace_agent_runner.domain.secrets import SecretOf, put_in, scrub_value
from millrace_agent_runner.errors import Deferred
from millrace_shared.messages import NOTHING, Answer, Deferral, ErrorInfo, RunStep, StepResult, WorkKind
from millrace_shared.values import Payload

_EMPTY = Spec()


class Values(Protocol):
    """Where large values are kept; `millrace_shared.blobs.Blobs` is one."""

    async def pack(self, workspace: str, data: Any) -> Payload:
        """Return `data` as a payload."""

    async def unpack(self, workspace: str, payload: Payload) -> Any:
        """Return the whole value of a payload."""


class Cache(Protocol):
    """Where results are kept to be used again; `adapters.cache.ResultCache` is one. No call fails, or waits long."""

    async def find(self, step: RunStep) -> Payload | None:
        """Return the output that is kept under the step's key, or None."""

    def keep(self, step: RunStep, output: Payload) -> None:
        """Keep an output under the step's key."""


class Performer:
    """Performs attempts with the executor of their kind.

    Args:
        executors: one for each kind of work.
        values: where large inputs come from and large outputs go.
        cache: where results of cached steps are kept.
        secret_of: where the values of secrets come from.
        runner: the name of this process, recorded in results.
        clock: Unix seconds.
    """

    def __init__(
        self,
        executors: Mapping[WorkKind, Executor],
        values: Values,
        cache: Cache,
        secret_of: SecretOf,
        runner: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._executors = executors
        self._values = values
        self._cache = cache
        self._secret_of = secret_of
        self._runner = runner
        self._clock = clock

    def open(self, step: RunStep, started_at: float, *, resumes: bool = False) -> Attempt:
        """Return the attempt that `step` asks for, with its deadline. `resumes`: somebody may have begun with it."""
        ends_at = min(started_at + step.timeout_s, step.deadline)
        return Attempt(step, _EMPTY, None, (), ends_at, resumes=resumes or step.continues)

    async def perform(self, attempt: Attempt) -> Payload:
        """Do the work, unless its result is in the cache, and return the output.

        Raises:
            Deferred: the attempt is over, and another one goes on later.
            Exception: anything; `error_of` describes it. Cancelled when the time is up.
        """
        step = attempt.step
        if step.cache:
            found = await self._cache.find(step)
            if found is not None:
                attempt.cached = True
                return found
        attempt.spec = spec_of(step)
        attempt.input = (
            step.input.data if not step.input.refs else await self._values.unpack(step.workspace, step.input)
        )
        if step.secrets:
            attempt.input, attempt.secrets = put_in(attempt.input, step.secrets, self._secret_of)
        if any(answer.data.refs for answer in step.answers):
            attempt.step = msgspec.structs.replace(step, answers=await self._whole(step))
        output = await self._executors[step.kind](attempt)
        schema = attempt.spec.output_schema
        if schema is not None:
            check_output(schema, output)
        packed = await self._values.pack(step.workspace, scrub_value(output, attempt.secrets))
        if step.cache:
            self._cache.keep(step, packed)
        return packed

    async def _whole(self, step: RunStep) -> tuple[Answer, ...]:
        return tuple(
            [
                msgspec.structs.replace(
                    answer, data=Payload(data=await self._values.unpack(step.workspace, answer.data))
                )
                for answer in step.answers
            ]
        )

    def succeeded(self, attempt: Attempt, output: Payload, started_at: float) -> StepResult:
        """Return the result of an attempt that came to its end."""
        return self._result(attempt, started_at, output, None)

    def failed(self, attempt: Attempt, error: BaseException, started_at: float) -> StepResult:
        """Return the result of an attempt that raised: why it failed, or that it gave its place back."""
        if isinstance(error, Deferred):
            return self._result(attempt, started_at, NOTHING, None, error.deferral)
        return self._result(attempt, started_at, NOTHING, error_of(error, attempt.secrets))

    def cancelled(self, attempt: Attempt, started_at: float) -> StepResult:
        """Return the result of an attempt that was stopped with its execution."""
        return self._result(attempt, started_at, NOTHING, CANCELLED)

    def timed_out(self, attempt: Attempt, started_at: float) -> StepResult:
        """Return the result of an attempt whose time was up."""
        limit_s = min(attempt.step.timeout_s, max(0.0, attempt.ends_at - started_at))
        return self._result(attempt, started_at, NOTHING, timed_out(limit_s))

    def _result(
        self,
        attempt: Attempt,
        started_at: float,
        output: Payload,
        error: ErrorInfo | None,
        deferral: Deferral | None = None,
    ) -> StepResult:
        step = attempt.step
        return StepResult(
            execution_id=step.execution_id,
            step=step.step,
            attempt=step.attempt,
            started_at=started_at,
            finished_at=self._clock(),
            item=step.item,
            output=output,
            error=error,
            usage=attempt.usage,
            runner=self._runner,
            cached=attempt.cached,
            deferred=deferral,
            scores=dict(attempt.scores),
        )
