"""The four services as supervised processes: names, ports, environment, readiness."""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from millrace.embedded.ports import LOOPBACK
from millrace.embedded.process import ProcessSpec

# In the order of the console's table; they start together.
SERVICES: Mapping[str, str] = {
    "api": "millrace_api",
    "orchestrator": "millrace_orchestrator",
    "agent-runner": "millrace_agent_runner",
    "telemetry": "millrace_telemetry",
}
INSTANCES_MAX = 16
_READY_TIMEOUT_S = 60.0
_DRAIN_GRACE_S = 30.0
_STATUS_LINE_BYTES_MAX = 1024


@dataclass(frozen=True, kw_only=True)
class ServiceInstance:
    """One process of one service.

    Attributes:
        service: a key of `SERVICES`.
        number: counts the instances of a service from 1.
        count: how many instances of the service the stack runs.
        port: where it answers `/readyz` (the api: where it answers everything).
        host: the address it listens on.
    """

    service: str
    number: int
    count: int = 1
    port: int
    host: str = LOOPBACK

    @property
    def name(self) -> str:
        """`orchestrator` when it is the only one; `orchestrator-1`, `orchestrator-2` and so on otherwise."""
        return self.service if self.count == 1 else f"{self.service}-{self.number}"

    @property
    def url(self) -> str:
        """Where it answers, as a client on this machine reaches it."""
        return f"http://{_reachable(self.host)}:{self.port}"

    def spec(self, environment: Mapping[str, str]) -> ProcessSpec:
        """The process to supervise.

        Args:
            environment: the whole environment shared by the services; this adds the addresses.
        """
        prefix = "MILLRACE_API" if self.service == "api" else "MILLRACE_OPS"
        # What they call themselves in results and logs. A name for all of them, from our own environment, would have
        # runners take one another for themselves.
        named = {} if self.count == 1 else {"MILLRACE_INSTANCE": self.name}
        return ProcessSpec(
            name=self.name,
            argv=(sys.executable, "-m", SERVICES[self.service]),
            env={**environment, **named, f"{prefix}_HOST": self.host, f"{prefix}_PORT": str(self.port)},
            ready=self._is_ready,
            ready_timeout_s=_READY_TIMEOUT_S,
            stop_grace_s=_DRAIN_GRACE_S,
        )

    async def _is_ready(self) -> bool:
        return await answers_ok(_reachable(self.host), self.port, "/readyz")


async def answers_ok(host: str, port: int, path: str) -> bool:
    """Whether an HTTP GET is answered with 200. An HTTP client of a few lines: the CLI need not import one.

    Raises:
        OSError: nobody listens.
    """
    reader, writer = await asyncio.open_connection(host, port, limit=_STATUS_LINE_BYTES_MAX)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        try:
            status_line = await reader.readline()
        except ValueError:  # longer than any status line
            return False
        return status_line.split(b" ")[1:2] == [b"200"]
    finally:
        writer.close()


def _reachable(host: str) -> str:
    """An address to connect to for one to listen on: "every address" is none to connect to."""
    return LOOPBACK if host in ("0.0.0.0", "", "::") else host  # noqa: S104 - compared, not bound
