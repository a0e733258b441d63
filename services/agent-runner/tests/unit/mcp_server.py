"""An MCP server by the protocol's reference implementation, with tools that behave and tools that do not."""

import os
import sys
import time

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("probe")


@server.tool()
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


@server.tool(structured_output=False)
def environment() -> str:
    """Say what the server was given."""
    return repr(sorted(os.environ.items()))


@server.tool(structured_output=False)
def process() -> str:
    """Say which process this is."""
    return str(os.getpid())


@server.tool(structured_output=False)
def fail(word: str) -> str:
    """Fail."""
    raise ToolError(f"no {word}")


@server.tool(structured_output=False)
def long(size: int) -> str:
    """Return a long text."""
    return "x" * size


@server.tool(structured_output=False)
def hang() -> str:
    """Never return."""
    while True:
        time.sleep(1)


@server.tool(structured_output=False)
def die() -> str:
    """End the whole server."""
    os._exit(3)


if __name__ == "__main__":
    print("a line that is no message", flush=True)  # noqa: T201  as programs do
    server.run("stdio" if len(sys.argv) < 2 else sys.argv[1])
