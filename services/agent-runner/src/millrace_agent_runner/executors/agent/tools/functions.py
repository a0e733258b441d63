"""Functions as tools: any that `python` steps may call."""

from __future__ import annotations

from typing import Any

from pydantic_ai import Tool

from millrace_agent_runner.errors import StepFailure, TerminalFailure
from millrace_agent_runner.executors.agent.tools.tool import Described, Settings, model_name, read_settings
from millrace_agent_runner.executors.python import PythonExecutor

PYTHON_PREFIX = "python:"


class _Settings(Settings, frozen=True, kw_only=True):
    call: str | None = None
    description: str | None = None
    idempotent: bool = False


def function(name: str, config: dict[str, Any], python: PythonExecutor) -> Described:
    """Return the tool that calls a function.

    Raises:
        TerminalFailure: there is none, or it may not be called.
    """
    settings = read_settings(name, config, _Settings)
    try:
        found = python.functions.resolve(settings.call or name.removeprefix(PYTHON_PREFIX))
    except StepFailure as error:
        raise TerminalFailure(f'the tool "{name}" cannot be used: {error}', category="tool_error") from error
    signature = Tool(found.call, takes_ctx=False)

    async def call(arguments: dict[str, Any], _: Any) -> Any:
        return await python.call(found, arguments)

    return Described(
        name=model_name(name.rpartition(":")[2]),
        description=settings.description or signature.description or name,
        schema=signature.function_schema.json_schema,
        call=call,
        settings=settings,
        is_idempotent=settings.idempotent,
        is_checked=False,
    )
