"""The embedded NATS server: its configuration, its process, its readiness."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from millrace.embedded import binaries
from millrace.embedded.ports import LOOPBACK
from millrace.embedded.process import ProcessSpec
from millrace.embedded.state import write_private

Durability = Literal["fsync", "interval"]
"""`fsync`: an acknowledged write survives a power failure. `interval`: it survives the death of any process,
but a power failure may take the last moments (NATS: up to 2 minutes; Postgres: under a second)."""

USER = "millrace"
# Payloads over 64 KiB travel by claim check; this leaves room for batches.
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
# A bound must be named, for without one the server reserves three quarters of the free disk at its first
# start and refuses streams beyond that later. The disk itself is the real limit; `millrace doctor` watches
# it.
MAX_FILE_STORE_BYTES = 1 << 40
MAX_MEMORY_STORE_BYTES = 256 * 1024 * 1024
_INFO_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class NatsServer:
    """A NATS server with JetStream on loopback.

    Attributes:
        directory: its own; holds the store and the configuration.
        port: on 127.0.0.1.
        password: of the only user. Loopback is open to every local user, so the port asks who it is.
        durability: when a write is acknowledged.
        monitor_port: for the HTTP monitoring pages (they ask for no password); None leaves them off.
    """

    directory: Path
    port: int
    password: str = field(repr=False)
    durability: Durability = "fsync"
    monitor_port: int | None = None

    @property
    def url(self) -> str:
        """Where clients connect, password included."""
        return f"nats://{USER}:{self.password}@{LOOPBACK}:{self.port}"

    def spec(self) -> ProcessSpec:
        """The process to supervise."""
        return ProcessSpec(
            name="nats",
            argv=(str(binaries.nats_server()), "--config", str(self._config_path)),
            env={},
            prepare=self._write_config,
            ready=self._is_ready,
        )

    @property
    def _config_path(self) -> Path:
        return self.directory / "nats-server.conf"

    async def _write_config(self) -> None:
        write_private(self._config_path, self.config())

    def config(self) -> str:
        """The configuration file. JSON strings are valid in it, and need no escaping rules of our own."""
        monitoring = f"http: {json.dumps(f'{LOOPBACK}:{self.monitor_port}')}\n" if self.monitor_port else ""
        sync = "  sync_interval: always\n" if self.durability == "fsync" else ""
        return (
            "# Generated at every start: changes are overwritten.\n"
            f"server_name: {USER}-embedded\n"
            f"listen: {json.dumps(f'{LOOPBACK}:{self.port}')}\n"
            f"{monitoring}"
            f"max_payload: {MAX_PAYLOAD_BYTES}\n"
            f"authorization {{ user: {USER}, password: {json.dumps(self.password)} }}\n"
            "jetstream {\n"
            f"  store_dir: {json.dumps(str(self.directory / 'store'))}\n"
            f"  max_file_store: {MAX_FILE_STORE_BYTES}\n"
            f"  max_memory_store: {MAX_MEMORY_STORE_BYTES}\n"
            f"{sync}"
            "}\n"
        )

    async def _is_ready(self) -> bool:
        """It greets with JetStream on. It listens only after it has recovered its streams."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port, limit=_INFO_BYTES_MAX)
        try:
            greeting = await reader.readline()
            return greeting.startswith(b"INFO ") and json.loads(greeting[5:]).get("jetstream") is True
        finally:
            writer.close()
