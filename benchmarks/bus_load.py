"""Executions accepted straight on the bus, and what becomes of them: for benchmarks that need very many."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from millrace_shared import subjects
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import decode_transition, encode
from millrace_shared.definition.canonical import canonical_json, content_hash
from millrace_shared.definition.model import WorkflowDefinition
from millrace_shared.ids import new_id
from millrace_shared.messages import Event, StartRequest
from millrace_shared.values import Payload

BATCH = 500


@dataclass
class Watch:
    """What is waited for: the first event of a kind in the log of an execution, and when it came."""

    kind: type
    future: asyncio.Future[float] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class BusLoad:
    """Accepts executions as the api does, without HTTP, and hears of their events as they are committed."""

    def __init__(self, connection: Connection, publisher: Publisher) -> None:
        self.connection = connection
        self._publisher = publisher
        self._watches: dict[str, list[Watch]] = {}

    @classmethod
    async def open(cls, nats_url: str) -> BusLoad:
        """Connect, and listen to all logs."""
        connection = await connect(nats_url, "benchmark")
        load = cls(connection, await Publisher(connection).start())
        await connection.listen("live.*.*", load._heard)
        return load

    async def define(self, document: dict[str, Any]) -> str:
        """Store a definition; return its hash."""
        canonical = canonical_json(WorkflowDefinition.model_validate(document))
        await self._publisher.publish(Outgoing(subjects.definition(content_hash(canonical)), canonical))
        return content_hash(canonical)

    def request(self, workspace: str, definition: str) -> StartRequest:
        """Return a request for a new execution."""
        name = f"wf-{workspace}"
        return StartRequest(new_id(), workspace, name, name, 1, definition, time.time(), Payload({}))

    async def accept(self, requests: list[StartRequest]) -> None:
        """Accept executions, with few fsyncs."""
        for first in range(0, len(requests), BATCH):
            batch = requests[first : first + BATCH]
            starts = [Outgoing(subjects.start(one.execution_id), encode(one), 0) for one in batch]
            for result in await self._publisher.publish_all(starts, timeout_s=30.0):
                if not isinstance(result, int):
                    raise SystemExit(f"an execution was not accepted: {result}")

    async def send(self, execution_id: str, message: Any) -> None:
        """Send a message to an execution."""
        await self._publisher.publish(Outgoing(subjects.inbox(execution_id), encode(message)), timeout_s=30.0)

    def watch(self, execution_id: str, kind: type) -> asyncio.Future[float]:
        """Return a future of the moment (`time.perf_counter`) of the first event of a kind."""
        watch = Watch(kind)
        self._watches.setdefault(execution_id, []).append(watch)
        return watch.future

    def _heard(self, subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        watches = self._watches.get(subjects.execution_id_of(subject))
        if watches is None:
            return
        events: tuple[Event, ...] = decode_transition(payload).events
        for watch in watches:
            if not watch.future.done() and any(isinstance(event, watch.kind) for event in events):
                watch.future.set_result(time.perf_counter())
        if all(watch.future.done() for watch in watches):
            del self._watches[subjects.execution_id_of(subject)]
