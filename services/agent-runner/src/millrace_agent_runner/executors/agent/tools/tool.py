"""What every tool has in common: its settings, its limits, and how it tells a model what went wrong."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic_ai import ModelRetry, RunContext, Tool, ToolFailed

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.schemas import check_output
from millrace_agent_runner.domain.secrets import scrub, scrub_value
from millrace_agent_runner.errors import StepFailure, TerminalFailure
from millrace_agent_runner.executors.agent.journaled import IDEMPOTENT, ON_UNKNOWN
from millrace_agent_runner.executors.agent.tools.cut import cut

OUTPUT_BYTES_DEFAULT = 64 * 1024
OUTPUT_BYTES_MIN, OUTPUT_BYTES_MAX = 256, 1024 * 1024
MESSAGE_CHARS_MAX = 4_000
TIMEOUT_S_MAX = 24 * 3600.0
NOT_TOLD = frozenset({"sandbox_violation"})
"""Failures that no model may talk its way around: they end the attempt."""
_NAME_CHARS_MAX = 64

Call = Callable[[dict[str, Any], RunContext[None]], Awaitable[Any]]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings that every tool takes."""

    output_bytes_max: Annotated[int, msgspec.Meta(ge=OUTPUT_BYTES_MIN, le=OUTPUT_BYTES_MAX)] = OUTPUT_BYTES_DEFAULT
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=TIMEOUT_S_MAX)] | None = None
    """Of one call."""
    on_unknown: Literal["tell", "fail"] = "tell"
    """Where nobody knows how a call ended that may not be repeated: tell the model, or fail the step."""


_Settings = TypeVar("_Settings", bound=Settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A tool, before it is given to a model.

    Attributes:
        name: what a model calls it; see `model_name`.
        description: what a model is told that it does.
        schema: the JSON Schema of its arguments.
        call: calls it; raises a `StepFailure` when it fails.
        settings: those of every tool.
        is_idempotent: it may be called again when it is not known how a call ended.
        is_alone: no other tool is called while it is.
        is_checked: its arguments are checked here; otherwise by the tool itself.
        timeout_s: how long one call may take, unless the settings say; None: as long as the attempt.
        bounds_itself: it holds to the time of its settings by itself.
    """

    name: str
    description: str
    schema: dict[str, Any]
    call: Call
    settings: Settings
    is_idempotent: bool
    is_alone: bool = False
    is_checked: bool = True
    timeout_s: float | None = None
    bounds_itself: bool = False


def read_settings(name: str, config: dict[str, Any], kind: type[_Settings]) -> _Settings:
    """Return the settings of the tool called `name`.

    Raises:
        TerminalFailure: they are not what it takes.
    """
    try:
        return msgspec.convert(config, kind)
    except msgspec.ValidationError as error:
        raise config_invalid(name, f"its `config` is wrong: {error}") from error


def config_invalid(name: str, problem: str) -> TerminalFailure:
    """Return the failure of an attempt whose tool is not set up right."""
    return TerminalFailure(
        f'the tool "{name}" cannot be used: {problem}', category="tool_error", code="tool_config_invalid"
    )


def model_name(name: str) -> str:
    """Return a name as models take it: letters, digits, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_NAME_CHARS_MAX]


def tool_of(described: Described, attempt: Attempt) -> Tool[None]:
    """Return a tool as pydantic-ai takes it."""
    settings = described.settings
    schema = msgspec.json.encode(described.schema) if described.is_checked else None

    async def use(context: RunContext[None], **arguments: Any) -> Any:
        limit_s = None if described.bounds_itself else settings.timeout_s or described.timeout_s
        left_s = max(0.0, attempt.ends_at - time.time())
        bound = asyncio.timeout(None if limit_s is None or limit_s >= left_s else limit_s)
        try:
            _check(schema, arguments)
            async with bound:
                result = await described.call(arguments, context)
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise ToolFailed(f"{described.name} did not end within {limit_s:g} s, and was stopped") from error
        except StepFailure as failure:
            if failure.category in NOT_TOLD:
                raise
            message = scrub(str(failure), attempt.secrets)[:MESSAGE_CHARS_MAX]
            raise (ModelRetry if failure.category == "input_invalid" else ToolFailed)(message) from failure
        try:
            return cut(scrub_value(result, attempt.secrets), settings.output_bytes_max)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = scrub(str(error), attempt.secrets)[:MESSAGE_CHARS_MAX]
            raise ToolFailed(f"the result of the tool is not JSON: {message}") from error

    tool: Tool[None] = Tool.from_schema(
        use,
        described.name,
        described.description,
        described.schema,
        takes_ctx=True,
        sequential=described.is_alone,
    )
    tool.metadata = {IDEMPOTENT: described.is_idempotent, ON_UNKNOWN: described.settings.on_unknown}
    return tool


def _check(schema: bytes | None, arguments: dict[str, Any]) -> None:
    if schema is None:
        return
    try:
        check_output(schema, arguments)
    except TerminalFailure as failure:
        mistakes = "; ".join(failure.detail.get("mistakes", [str(failure)])).replace("output", "arguments")
        raise ModelRetry(f"the arguments are wrong: {mistakes}"[:MESSAGE_CHARS_MAX]) from failure
