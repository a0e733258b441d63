"""What happens to all executions of a workflow, for whoever watches now: one subscription for all sockets.

At most once, unlike the feed of an execution: a viewer that comes back asks for the list of executions. A viewer that
may have missed something is told so by the end of its feed, never left to believe that nothing happened.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from dataclasses import replace
from typing import Any

from millrace_api.adapters.definitions import Definitions
from millrace_api.domain.events import Origin, admitted, workflow_events
from millrace_shared import subjects
from millrace_shared.bus.compacted import is_compacted
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_last
from millrace_shared.codec import decode_request, decode_transition
from millrace_shared.errors import MillraceError
from millrace_shared.messages import ExecutionFinished, ExecutionStarted, StartRequest

log = logging.getLogger(__name__)

WAITING_MAX = 20_000
"""Transitions that wait to be shown. More than that and every feed ends: this process does not keep up."""
MESSAGES_MAX = 1_000
"""Messages that wait for one viewer. More than that and its feed ends: it does not keep up."""
ORIGINS_MAX = 50_000


class FeedEnded(Exception):
    """The feed is over; `reason` says why, and whose fault it is by `slow_reader`."""

    def __init__(self, reason: str, *, slow_reader: bool) -> None:
        super().__init__(reason)
        self.slow_reader = slow_reader


class Feed:
    """One viewer's messages: of a workflow, or of one of its steps."""

    def __init__(self, workspace: str, workflow_id: str, step: str | None) -> None:
        self.workspace = workspace
        self.workflow_id = workflow_id
        self.step = step
        self._messages: deque[dict[str, Any]] = deque()
        self._end: FeedEnded | None = None
        self._signal = asyncio.Event()

    def put(self, message: dict[str, Any]) -> None:
        """Hand a message over; the feed ends when too many wait."""
        if len(self._messages) >= MESSAGES_MAX:
            self.end(f"{MESSAGES_MAX} messages wait for this reader already", slow_reader=True)
            return
        self._messages.append(message)
        self._signal.set()

    def end(self, reason: str, *, slow_reader: bool) -> None:
        """Let the feed end once what waits was read; at once for a slow reader."""
        if slow_reader:
            self._messages.clear()
        self._end = self._end or FeedEnded(reason, slow_reader=slow_reader)
        self._signal.set()

    async def next(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            FeedEnded: there will be none.
        """
        while not self._messages:
            if self._end is not None:
                raise self._end
            self._signal.clear()
            await self._signal.wait()
        return self._messages.popleft()


class WorkflowFeed:
    """Distributes live transitions to feeds. It listens only while there is one."""

    def __init__(self, connection: Connection, definitions: Definitions) -> None:
        self._connection = connection
        self._definitions = definitions
        self._feeds: dict[str, set[Feed]] = {}
        self._origins: OrderedDict[str, Origin] = OrderedDict()
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._signal = asyncio.Event()
        self._subscription: Any = None
        self._task: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()

    @property
    def listening(self) -> bool:
        """Whether there is a subscription."""
        return self._subscription is not None

    async def open(self, workspace: str, workflow_id: str, step: str | None = None) -> Feed:
        """Open a feed. From its return on, everything that happens is in it."""
        feed = Feed(workspace, workflow_id, step)
        self._feeds.setdefault(workflow_id, set()).add(feed)
        async with self._opening:
            if self._subscription is None:
                self._task = asyncio.create_task(self._distribute(), name="workflow feed")
                self._connection.on_reconnect.append(self._interrupted)
                self._subscription = await self._connection.listen("live.*.*", self._on_live)
        return feed

    async def close(self, feed: Feed) -> None:
        """Close a feed; the last one ends the subscription."""
        feeds = self._feeds.get(feed.workflow_id, set())
        feeds.discard(feed)
        if not feeds:
            self._feeds.pop(feed.workflow_id, None)
        async with self._opening:
            if not self._feeds and self._subscription is not None:
                await self._stop()

    def end_all(self, reason: str) -> None:
        """End every feed."""
        for feeds in self._feeds.values():
            for feed in feeds:
                feed.end(reason, slow_reader=False)

    async def _stop(self) -> None:
        assert self._task is not None
        await self._connection.unlisten(self._subscription)
        self._connection.on_reconnect.remove(self._interrupted)
        self._subscription = None
        self._task.cancel()
        self._waiting.clear()
        self._origins.clear()

    def _interrupted(self) -> None:
        self.end_all("the connection to the bus was interrupted: something may have been missed")

    def _on_live(self, subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        if is_compacted(payload):  # it repeats what was live long ago
            return
        execution_id = subjects.execution_id_of(subject)
        origin = self._origins.get(execution_id)
        if origin is not None and (origin.inline or origin.workflow_id not in self._feeds):
            return  # known, and nobody watches its workflow, or would be shown it: not worth decoding
        if len(self._waiting) >= WAITING_MAX:
            self._waiting.clear()
            self.end_all("this server does not keep up: something was missed")
        self._waiting.append((execution_id, payload))
        self._signal.set()

    async def _distribute(self) -> None:
        while True:
            self._signal.clear()
            while self._waiting:
                execution_id, payload = self._waiting.popleft()
                try:
                    await self._show(execution_id, payload)
                except MillraceError as error:  # a log of a later version included: it must not silence the others
                    log.warning("execution %s is not shown: %s", execution_id, error)
            await self._signal.wait()

    async def _show(self, execution_id: str, payload: bytes) -> None:
        transition = decode_transition(payload)
        origin = self._origins.get(execution_id)
        if origin is None:
            first = transition.events[0] if transition.events else None
            if isinstance(first, ExecutionStarted):
                origin = await self._origin(first.request, transition.at)
            else:
                origin = await self._look_up(execution_id)
            if origin is None:
                return
            self._origins[execution_id] = origin
            if len(self._origins) > ORIGINS_MAX:
                self._origins.popitem(last=False)
        if admitted(transition):
            origin = self._origins[execution_id] = replace(origin, started_at=transition.at)
        for step, message in workflow_events(transition, origin):
            for feed in tuple(self._feeds.get(origin.workflow_id, ())):
                if feed.step == step and feed.workspace == origin.workspace:
                    feed.put(message)
        if transition.events and isinstance(transition.events[-1], ExecutionFinished):
            self._origins.pop(execution_id, None)

    async def _look_up(self, execution_id: str) -> Origin | None:
        """Return the origin of an execution that started before anybody watched."""
        stored = await read_last(self._connection, "INBOX", subjects.start(execution_id))
        if stored is None:
            return None
        request = decode_request(stored.payload)
        return await self._origin(request, request.requested_at)

    async def _origin(self, request: StartRequest, started_at: float) -> Origin:
        names: dict[str, str] = {}
        if request.workflow_id in self._feeds:
            definition = await self._definitions.get(request.definition, request.part)
            steps = definition.steps.items() if definition is not None else ()
            names = {step_id: step.name for step_id, step in steps if step.name is not None}
        inline = request.parent is not None and request.parent.inline
        return Origin(request.workspace, request.workflow_id, started_at, names, inline)
