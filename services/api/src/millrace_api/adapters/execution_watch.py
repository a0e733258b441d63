"""Everything of one execution as it happens: its log, and the facts beside it (attempts begun, LLM calls, tokens).

Both streams are stored, so a viewer that comes back with the id of its last message misses nothing and sees nothing
twice. Facts are read from their stream whenever one is heard live: the live copy has no sequence to resume from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from millrace_api.adapters.log_follower import LogFollower, is_final
from millrace_api.domain.events import shown, shown_fact
from millrace_api.domain.positions import Position
from millrace_api.domain.rendering import timestamp
from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_last_of_log, read_subject
from millrace_shared.codec import decode_fact, decode_transition
from millrace_shared.errors import MessageInvalid
from millrace_shared.messages import Transition

REREAD_S = 0.05
REREADS_MAX = 20
"""A fact that was heard live is looked for in its stream this often: the stream stores it a moment later."""

Message = dict[str, Any]


class ExecutionWatch:
    """Opens feeds of executions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Tell whoever serves a feed to end it: this process stops."""
        self._stopping.set()

    async def stopped(self) -> None:
        """Return when feeds are to end because this process stops."""
        await self._stopping.wait()

    async def is_over(self, execution_id: str, after: Position) -> bool:
        """Tell whether the execution has ended and nothing of it comes after a position.

        Raises:
            BusUnavailable: a stream cannot be read.
        """
        last = await read_last_of_log(self._connection, execution_id)
        if last is None or not is_final(decode_transition(last.payload)):
            return False
        async with aclosing(self.messages(execution_id, after)) as messages:  # it ends: nothing is waited for
            return await anext(messages, None) is None

    async def messages(self, execution_id: str, after: Position) -> AsyncGenerator[Message]:
        """Yield the messages of an execution after a position, until it has ended.

        Raises:
            BusUnavailable: a stream cannot be read; come back with the last id.
        """
        feed = _Feed(self._connection, execution_id, after)
        subscription = await self._connection.listen(subjects.fact(execution_id, ">"), feed.on_fact)
        try:
            follower = LogFollower(
                self._connection,
                execution_id,
                after_version=max(0, after.version - 1),  # the last version may have been seen in part
                on_signal=feed.signal.set,
            )
            async with follower:
                async for message in feed.run(follower):
                    yield message
        finally:
            await self._connection.unlisten(subscription)


class _Feed:
    def __init__(self, connection: Connection, execution_id: str, after: Position) -> None:
        self._connection = connection
        self._execution_id = execution_id
        self._position = after
        self._heard = 0
        self._rereads = 0
        self.signal = asyncio.Event()

    def on_fact(self, _subject: str, _reply: str, _headers: bytes, _payload: bytes) -> None:
        self._heard += 1
        self._rereads = 0
        self.signal.set()

    async def run(self, follower: LogFollower) -> AsyncIterator[Message]:
        unheard = True  # facts that were stored before anybody listened
        while True:
            self.signal.clear()
            async for message in self._facts(unheard=unheard):  # tokens come before the end of their step
                yield message
            unheard = False
            while (transition := await follower.poll()) is not None:
                for message in self._events(transition):
                    yield message
                if is_final(transition):
                    async for message in self._facts(unheard=True):  # a reconnect may have swallowed the last ones
                        yield message
                    return
            await self.signal.wait()

    async def _facts(self, *, unheard: bool) -> AsyncIterator[Message]:
        """Yield new facts of the stream; it is only asked when one was heard live, or may be there unheard."""
        if not self._heard and not unheard:
            return
        found = 0
        subject = subjects.fact(self._execution_id, ">")
        start = self._position.fact_sequence + 1
        async for stored in read_subject(self._connection, "TELEMETRY", subject, start):
            found += 1
            self._position = replace(self._position, fact_sequence=stored.sequence)
            try:
                fact = decode_fact(stored.payload)
            except MessageInvalid:  # telemetry buries it and says so
                continue
            yield self._message(shown_fact(fact))
        if not unheard:  # otherwise older facts were found too, which says nothing of those that were heard
            self._heard = max(0, self._heard - found)
        if self._heard and self._rereads < REREADS_MAX:
            self._rereads += 1
            asyncio.get_running_loop().call_later(REREAD_S, self.signal.set)
        else:
            self._heard = 0

    def _events(self, transition: Transition) -> list[Message]:
        at = timestamp(transition.at)
        messages = []
        for number, event in enumerate(transition.events):
            if (transition.version, number) <= (self._position.version, self._position.event):
                continue
            self._position = replace(self._position, version=transition.version, event=number)
            messages.append(self._message({"at": at, **shown(event)}))
        return messages

    def _message(self, fields: Message) -> Message:
        name = fields.pop("type")
        moment = fields.pop("at", None)
        fields.pop("execution_id", None)
        data = {"execution_id": self._execution_id, "timestamp": moment, **fields}
        return {"id": str(self._position), "event": name, "data": data}
