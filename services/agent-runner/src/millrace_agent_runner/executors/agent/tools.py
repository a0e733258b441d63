"""The tools that an agent may call, by the name that a definition gives.

| name | configuration | what it does |
|---|---|---|
| `http.get` | `hosts`: the only ones it may ask; `headers`: for them | GET through the runner's guard |
| any other | `call`: a function, named as in `python` steps; `description` | calls that function |
| `python:package.module:function` | `description` | the same, named after the function |

A name without configuration is that of a registered function. What a function takes is read from its signature, and
what it does from its docstring. A tool that fails tells the model why; the model may try something else, within the
agent's limits. To add a tool, add a builder to `Tools`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from pydantic_ai import ModelRetry, Tool, ToolFailed

from millrace_agent_runner.domain.attempt import Attempt
from millrace_agent_runner.domain.secrets import scrub, scrub_value
from millrace_agent_runner.errors import StepFailure, TerminalFailure
from millrace_agent_runner.executors.http import Call, HttpExecutor, readable
from millrace_agent_runner.executors.python import PythonExecutor

HTTP_GET = "http.get"
PYTHON_PREFIX = "python:"
RESULT_BYTES_MAX = 64 * 1024
"""More of a tool's result would crowd out the conversation."""
_NAME_CHARS_MAX = 64

Use = Callable[[dict[str, Any]], Awaitable[Any]]


class _Described(NamedTuple):
    use: Use
    description: str
    schema: dict[str, Any]


class Tools:
    """Builds the tools of one attempt.

    Args:
        http: sends requests.
        python: resolves and calls functions.
    """

    def __init__(self, http: HttpExecutor, python: PythonExecutor) -> None:
        self._http = http
        self._python = python

    def build(self, names: tuple[str, ...], configs: Mapping[str, Any], attempt: Attempt) -> list[Tool[None]]:
        """Return the tools called `names`.

        Raises:
            TerminalFailure: one of them cannot be used at all.
        """
        return [self._build(name, configs.get(name) or {}, attempt) for name in names]

    def _build(self, name: str, config: dict[str, Any], attempt: Attempt) -> Tool[None]:
        described = self._http_get(config, attempt) if name == HTTP_GET else self._function(name, config)

        async def use(**arguments: Any) -> Any:
            try:
                result = scrub_value(await described.use(arguments), attempt.secrets)
            except StepFailure as failure:
                message = scrub(str(failure), attempt.secrets)
                raise (ModelRetry if failure.category == "input_invalid" else ToolFailed)(message) from failure
            return _bounded(result)

        return Tool.from_schema(use, _model_name(name), described.description, described.schema)

    def _function(self, name: str, config: dict[str, Any]) -> _Described:
        call = config.get("call") or name.removeprefix(PYTHON_PREFIX)
        try:
            function = self._python.functions.resolve(call)
        except StepFailure as error:
            raise TerminalFailure(f'the tool "{name}" cannot be used: {error}', category="tool_error") from error
        signature = Tool(function.call, takes_ctx=False)
        description = config.get("description") or signature.description or name

        async def use(arguments: dict[str, Any]) -> Any:
            return await self._python.call(function, arguments)

        return _Described(use, description, signature.function_schema.json_schema)

    def _http_get(self, config: dict[str, Any], attempt: Attempt) -> _Described:
        hosts = frozenset(str(host).lower() for host in config.get("hosts") or ())
        headers = config.get("headers") or {}
        if headers and not hosts:
            message = 'the tool "http.get" has `headers` and no `hosts`: say which hosts may be sent them'
            raise TerminalFailure(message, category="tool_error", code="tool_config_invalid")

        async def use(arguments: dict[str, Any]) -> Any:
            call = Call(url=str(arguments["url"]), headers=headers or None)
            answer = await self._http.send(call, attempt.ends_at, attempt.secrets, hosts=hosts or None)
            return {"status": answer.status, "body": readable(answer)}

        description = "Fetch a web address with HTTP GET and return its status and body."
        if hosts:
            description += f" Only these hosts: {', '.join(sorted(hosts))}."
        schema = {
            "type": "object",
            "properties": {"url": {"type": "string", "description": "Absolute http or https address."}},
            "required": ["url"],
            "additionalProperties": False,
        }
        return _Described(use, description, schema)


def _model_name(name: str) -> str:
    """The name as models take it: letters, digits, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name.rpartition(":")[2])[:_NAME_CHARS_MAX]


def _bounded(result: Any) -> Any:
    try:
        document = msgspec.json.encode(result)
    except (TypeError, ValueError, OverflowError) as error:
        raise ToolFailed(f"the result of the tool is not JSON: {error}") from error
    if len(document) <= RESULT_BYTES_MAX:
        return result
    start = document[:RESULT_BYTES_MAX].decode(errors="ignore")
    return {"truncated": True, "size_bytes": len(document), "start": start}
