"""`python.sandbox`: Python that a model wrote, run by pydantic-monty in a process of its own.

It is a subset of Python: no packages, files, network or processes. Time, memory, recursion and output are bounded. What
the code itself gets wrong is told to the model; code that hits a bound ends the attempt as `sandbox_violation`, or is
told, too, with `on_violation: tell`.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from millrace_agent_runner.errors import RetryableFailure, TerminalFailure
from millrace_agent_runner.executors.agent.tools.tool import Described, Settings, model_name, read_settings

if TYPE_CHECKING:
    from pydantic_monty import AsyncMonty, CollectString

PYTHON_SANDBOX = "python.sandbox"
CODE_CHARS_MAX = 50_000
PRINTED_BYTES_MAX = 1024 * 1024
PROCESSES_MAX = 4
TIMEOUT_S_DEFAULT, TIMEOUT_S_MAX = 5.0, 60.0
GRACE_S = 1.0
"""A process that does not stop by itself is killed so long after its time was up."""
RECURSION_MAX = 500
_MEGABYTE = 1024 * 1024
_BOUNDS = (TimeoutError, MemoryError, RecursionError)


class _Settings(Settings, frozen=True, kw_only=True):
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=TIMEOUT_S_MAX)] = TIMEOUT_S_DEFAULT
    memory_bytes_max: Annotated[int, msgspec.Meta(ge=_MEGABYTE, le=512 * _MEGABYTE)] = 64 * _MEGABYTE
    on_violation: Literal["fail", "tell"] = "fail"


class Sandbox:
    """Processes that run code. They start with the first code and are kept for the next."""

    def __init__(self) -> None:
        self._processes: AsyncMonty | None = None
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """End the processes."""
        await self._stack.aclose()
        self._processes = None

    async def run(self, code: str, settings: _Settings) -> Any:
        """Run code; return what it printed, and the value of its last expression.

        Raises:
            StepFailure: it failed, or hit a bound.
        """
        from pydantic_monty import CollectString, MontyCrashedError, MontyError

        printed = CollectString(PRINTED_BYTES_MAX)
        try:
            result = await self._run(code, settings, printed)
        except MontyCrashedError as error:
            raise _violation(f"its process ended: {error}", settings) from error
        except MontyError as error:
            if isinstance(error.exception(), _BOUNDS):
                raise _violation(str(error), settings) from error
            raise TerminalFailure(f"the code failed: {error}", category="tool_error", code="code_failed") from error
        except TimeoutError as error:
            message = f"all {PROCESSES_MAX} sandboxes of the runner are busy; try again later"
            raise RetryableFailure(message, category="tool_error", code="sandbox_busy") from error
        return {"result": _json(result), "printed": printed.output}

    async def _run(self, code: str, settings: _Settings, printed: CollectString) -> Any:
        processes = self._processes or await self._open()
        limits = {
            "max_feed_duration_secs": settings.timeout_s,
            "max_memory": settings.memory_bytes_max,
            "max_recursion_depth": RECURSION_MAX,
            "max_total_sleep_secs": settings.timeout_s,
        }
        async with processes.checkout(limits=limits) as session:  # type: ignore[arg-type]  # a TypedDict of the same
            return await session.feed_run(code, print_callback=printed)

    async def _open(self) -> AsyncMonty:
        from pydantic_monty import AsyncMonty

        async with self._opening:
            if self._processes is None:
                self._processes = await self._stack.enter_async_context(
                    AsyncMonty(
                        min_processes=0,
                        max_processes=PROCESSES_MAX,
                        checkout_timeout=TIMEOUT_S_MAX,
                        request_timeout=TIMEOUT_S_MAX + GRACE_S,
                        feed_duration_limit_grace=GRACE_S,
                    )
                )
            return self._processes


def sandbox(config: dict[str, Any], processes: Sandbox) -> Described:
    """Return the tool `python.sandbox`.

    Raises:
        TerminalFailure: its settings are wrong.
    """
    settings = read_settings(PYTHON_SANDBOX, config, _Settings)

    async def call(arguments: dict[str, Any], _: Any) -> Any:
        return await processes.run(arguments["code"], settings)

    code = {"type": "string", "maxLength": CODE_CHARS_MAX, "description": "The last expression is the result."}
    return Described(
        name=model_name(PYTHON_SANDBOX),
        description=(
            "Run Python code to compute something. A subset of Python: no packages, files, network or processes. "
            "Returns what was printed, and the value of the last expression."
        ),
        schema={
            "type": "object",
            "properties": {"code": code},
            "required": ["code"],
            "additionalProperties": False,
        },
        call=call,
        settings=settings,
        is_idempotent=True,
        bounds_itself=True,
    )


def _violation(problem: str, settings: _Settings) -> TerminalFailure:
    message = f"the code was stopped at a bound of the sandbox: {problem}"
    category = "sandbox_violation" if settings.on_violation == "fail" else "tool_error"
    return TerminalFailure(message, category=category, code="sandbox_violation")


def _json(value: Any) -> Any:
    """Return a value as JSON has it; as Python shows it, where JSON has nothing like it."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return repr(value)
