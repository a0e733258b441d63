"""Connections that lead only where the operator lets them: the guard stands where the socket is opened.

A name is resolved here, every address is judged, and the connection is made to a judged address, so a name that
resolves differently the second time gains nothing. The URL keeps the name, so Host and TLS see it as usual. Redirects
open connections like any request and pass the same guard. No proxy is taken from the environment.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from millrace_agent_runner.domain.addresses import Address, Allowed
from millrace_agent_runner.errors import RetryableFailure, TerminalFailure

CONNECTIONS_MAX = 200
CONNECTIONS_IDLE_MAX = 20
IDLE_S = 15.0
ADDRESSES_TRIED_MAX = 4


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Opens TCP connections to addresses that `allowed` permits, and to no others."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to a permitted address of `host`.

        Raises:
            TerminalFailure: `host` has no permitted address.
            RetryableFailure: the name cannot be resolved.
            httpcore.ConnectError: none of its addresses answers.
        """
        failure: Exception | None = None
        for address in (await self.addresses(host, port))[:ADDRESSES_TRIED_MAX]:
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address=local_address, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Resolve `host`, and return the addresses that may be connected to.

        Raises:
            TerminalFailure: there is none.
            RetryableFailure: the name cannot be resolved.
        """
        found = await _resolve(host, port)
        permitted = [address for address in found if self._allowed.permits(host, address)]
        if not permitted:
            shown = ", ".join(map(str, found[:3]))
            message = (
                f'"{host}" is not on the public internet ({shown}), so steps may not reach it; '
                "the operator can allow it with MILLRACE_HTTP_ALLOW"
            )
            raise TerminalFailure(message, category="client_error", code="address_refused")
        return permitted

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Refuse: no step has business with a local socket."""
        raise TerminalFailure("unix sockets are not available to steps", category="client_error")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def open_pool(allowed: Allowed) -> httpcore.AsyncConnectionPool:
    """Return a pool of guarded connections."""
    return httpcore.AsyncConnectionPool(
        ssl_context=httpx.create_ssl_context(),
        max_connections=CONNECTIONS_MAX,
        max_keepalive_connections=CONNECTIONS_IDLE_MAX,
        keepalive_expiry=IDLE_S,
        network_backend=GuardedNetwork(allowed),
    )


async def _resolve(host: str, port: int) -> list[Address]:
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f'the name "{host}" cannot be resolved: {error}'
        raise RetryableFailure(message, category="connection", code="name_unknown") from error
    unique = dict.fromkeys(str(info[4][0]).partition("%")[0] for info in infos)
    return [ipaddress.ip_address(text) for text in unique]
