"""The MCP servers that the operator offers to agents, as MILLRACE_MCP_SERVERS names them.

A JSON object of servers by name. One with `command` is a program that the runner starts, and talks to over its standard
input and output; one with `url` is asked over HTTP.
"""

from __future__ import annotations

import re

import msgspec

_NAME = re.compile(r"^[a-z][a-z0-9_-]{0,39}$")


class McpServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One server. `env` is all that a program gets of an environment, beside PATH, HOME and LANG."""

    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    url: str = ""
    headers: dict[str, str] = {}

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nothing that leaves the runner may show."""
        return (*self.env.values(), *self.headers.values())


def read_mcp_servers(text: str) -> dict[str, McpServer]:
    """Read the servers.

    Raises:
        ValueError: the text is not what it should be. Holds none of its values.
    """
    try:
        servers = msgspec.json.decode(text or "{}", type=dict[str, McpServer])
    except msgspec.DecodeError as error:
        raise ValueError(f"not a JSON object of MCP servers: {error}") from error
    for name, server in servers.items():
        if not _NAME.match(name):
            raise ValueError(f'"{name[:40]}" is no name for an MCP server: small letters, digits, "_" and "-"')
        if bool(server.command) == bool(server.url):
            raise ValueError(f'the MCP server "{name}" needs either a `command` or a `url`')
    return servers
