"""What is said to an MCP server, over whatever way: who we are, what it offers, and calls of its tools."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from millrace_agent_runner.errors import RetryableFailure, TerminalFailure

PROTOCOL_VERSION = "2025-06-18"
INITIALIZE = {
    "protocolVersion": PROTOCOL_VERSION,
    "capabilities": {},
    "clientInfo": {"name": "millrace", "version": "1"},
}
PAGES_MAX = 20
TOOLS_MAX = 200
SCHEMA_BYTES_MAX = 32 * 1024
ERROR_CHARS_MAX = 1_000
_MODEL_DESCRIPTION_CHARS_MAX = 4_000


class Asked(Protocol):
    """A server that can be asked, and says that it is ready by itself."""

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a request; a failure is a `StepFailure`."""


class Offered(msgspec.Struct, frozen=True):
    """A tool that a server offers."""

    name: str
    schema: dict[str, Any] = msgspec.field(name="inputSchema")
    description: str | None = None


class _Page(msgspec.Struct, frozen=True):
    tools: list[Offered]
    next: str | None = msgspec.field(name="nextCursor", default=None)


def broken(server: str, problem: str) -> RetryableFailure:
    """Return the failure of what needs a server that does not do its part."""
    message = f'the MCP server "{server}" {problem}'
    return RetryableFailure(message, category="tool_error", code="mcp_server_failed")


async def tools_of(server: str, asked: Asked) -> list[Offered]:
    """Return what a server offers.

    Raises:
        StepFailure: it does not say, or offers too much.
    """
    found: list[Offered] = []
    cursor: str | None = None
    for _ in range(PAGES_MAX):
        answer = await asked.request("tools/list", {} if cursor is None else {"cursor": cursor})
        try:
            page = msgspec.convert(answer, _Page)
        except msgspec.ValidationError as error:
            raise broken(server, f"lists its tools in a way that is not the protocol's: {error}") from error
        found.extend(page.tools)
        cursor = page.next
        if cursor is None or len(found) > TOOLS_MAX:
            break
    if cursor is not None or len(found) > TOOLS_MAX:
        raise broken(server, f"offers more than {TOOLS_MAX} tools")
    for tool in found:
        if len(msgspec.json.encode(tool.schema)) > SCHEMA_BYTES_MAX:
            raise broken(server, f"has a tool whose schema is longer than {SCHEMA_BYTES_MAX} bytes")
    return found


def description_of(tool: Offered) -> str:
    """Return what a model is told that a tool does."""
    return (tool.description or tool.name)[:_MODEL_DESCRIPTION_CHARS_MAX]


async def call_tool(asked: Asked, tool: str, arguments: dict[str, Any]) -> Any:
    """Call a tool: return what it gave, text where it gave nothing but text.

    Raises:
        StepFailure: it failed, or the server did.
    """
    answer = await asked.request("tools/call", {"name": tool, "arguments": arguments})
    content = answer.get("content")
    parts = [_shown(part) for part in content] if isinstance(content, list) else []
    if answer.get("isError") is True:
        problem = "\n".join(map(str, parts))[:ERROR_CHARS_MAX]
        raise TerminalFailure(f"{tool} failed: {problem}", category="tool_error", code="mcp_tool_failed")
    structured = answer.get("structuredContent")
    if isinstance(structured, dict):
        return structured
    return "\n".join(parts) if all(isinstance(part, str) for part in parts) else parts


def result_of(server: str, message: dict[str, Any]) -> dict[str, Any]:
    """Return the result in a reply.

    Raises:
        StepFailure: it is an error, or no reply.
    """
    error = message.get("error")
    if isinstance(error, dict):
        problem = str(error.get("message"))[:ERROR_CHARS_MAX]
        raise TerminalFailure(
            f'the MCP server "{server}" refused: {problem}', category="tool_error", code="mcp_server_refused"
        )
    result = message.get("result")
    if not isinstance(result, dict):
        raise broken(server, "sent a reply that is none")
    return result


def _shown(part: Any) -> Any:
    if not isinstance(part, dict):
        return str(part)
    if part.get("type") == "text":
        return str(part.get("text", ""))
    return {key: value for key, value in part.items() if key not in {"data", "blob"}}  # no model here reads bytes
