"""One attempt of one step: what is to be done, with what, and what has been used so far."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from millrace_agent_runner.errors import TerminalFailure
from millrace_shared.messages import RunStep, Usage

SPEC_BYTES_CACHED_MAX = 32 * 1024
"""The spec of a step is the same for each of its attempts, so decoded ones are kept, unless they are large."""


NULL = msgspec.Raw(b"null")
"""What absent and null decode to: msgspec has no optional raw values."""


def present(raw: msgspec.Raw) -> bytes | None:
    """Return a raw value's bytes; None for absent and null."""
    return None if raw == NULL else bytes(raw)


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """The static part of a step, as the definition has it.

    `call` belongs to `python` steps, `agent` to `agent` steps. `output` is the JSON Schema of the step's output.
    """

    call: str = ""
    agent: msgspec.Raw = NULL
    output: msgspec.Raw = NULL

    @property
    def output_schema(self) -> bytes | None:
        """The JSON Schema of the step's output, if it has one."""
        return present(self.output)


@dataclass(slots=True)
class Attempt:
    """An attempt that is being performed.

    Attributes:
        step: the work message.
        spec: its static part.
        input: the resolved input, whole, with secrets put in.
        secrets: the values that were put in; nothing that leaves the runner may show them.
        ends_at: when it must have ended, in Unix seconds.
        usage: what LLM calls used up to now; None when there were none.
        cached: the output was found in the result cache, and nothing was performed.
        resumes: somebody may have begun with it, or with its conversation, before.
        call: the number of the call to a model that is being made, from 1, counted over the whole conversation: the
            attempt that goes on with an interrupted call has the same number, and no other call ever has it.
        scores: what checks of an agent's prompt and answer gave, from 0 to 1, by their names.
        reported: calls to models that were reported, likewise over the whole conversation.
    """

    step: RunStep
    spec: Spec
    input: Any
    secrets: tuple[str, ...]
    ends_at: float
    usage: Usage | None = None
    cached: bool = False
    resumes: bool = False
    call: int = 0
    reported: int = 0
    scores: dict[str, float] = field(default_factory=dict)


Executor = Callable[[Attempt], Awaitable[Any]]
"""Performs one kind of work: returns the output, or raises a `StepFailure`. It is cancelled when the time is up."""

current: ContextVar[Attempt] = ContextVar("current_attempt")
"""The attempt that the running code belongs to."""

_decoder = msgspec.json.Decoder(Spec)


def spec_of(step: RunStep) -> Spec:
    """Decode the static part of a step.

    Raises:
        TerminalFailure: it is not one that this version knows.
    """
    raw = bytes(step.spec)
    return _cached(raw) if len(raw) <= SPEC_BYTES_CACHED_MAX else _decode(raw)


def _decode(raw: bytes) -> Spec:
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError as error:
        message = f"the spec of the step is not one that this runner knows: {error}; upgrade the runner"
        raise TerminalFailure(message, category="input_invalid", code="spec_invalid") from error


_cached = lru_cache(maxsize=2048)(_decode)
