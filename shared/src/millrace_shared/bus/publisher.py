"""Publishing to JetStream: pipelined, fenced, and in atomic batches.

nats-py's `publish_async` waits for ever when the server answers with an error, a lost fence included. Here every
message in flight has a future and a deadline, and all answers come to one wildcard inbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from millrace_shared.bus import headers as header_block
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import BusRefused, StreamMissing, SubjectTaken, refusal
from millrace_shared.bus.headers import status_of
from millrace_shared.errors import BusUnavailable, MillraceError

ACK_TIMEOUT_S = 5.0
BATCH_MESSAGES_MAX = 1000
"""The server's limit on one atomic batch."""
ATOMIC_MESSAGES_MIN = 9
"""From this many messages on, an atomic batch (about 3.5 ms, one fsync) is cheaper than an fsync for each (0.28 ms)."""
BATCH_BYTES_MAX = 4 * 1024 * 1024
"""Most bytes in one atomic batch, so that a batch of large messages does not hold up the connection."""


class Outgoing(msgspec.Struct, frozen=True):
    """A message to publish.

    `expected_last_sequence` is the fence: the stream sequence of the subject's last message, 0 for an empty subject,
    None for no fence. `message_id` is what the stream's duplicate window recognises. `extra` are further headers, by
    name; neither names nor values hold line breaks.
    """

    subject: str
    payload: bytes
    expected_last_sequence: int | None = None
    message_id: str | None = None
    extra: Mapping[str, str] | None = None

    def headers(self, batch: str | None = None, sequence: int = 0, *, last: bool = False) -> bytes:
        """Return the header block, as message `sequence` (from 1) of `batch` when one is given."""
        fields: dict[str, str | int] = {} if self.extra is None else dict(self.extra)
        if self.expected_last_sequence is not None:
            fields["Nats-Expected-Last-Subject-Sequence"] = self.expected_last_sequence
        if self.message_id is not None:
            fields["Nats-Msg-Id"] = self.message_id
        if batch is not None:
            fields["Nats-Batch-Id"] = batch
            fields["Nats-Batch-Sequence"] = sequence
            if last:
                fields["Nats-Batch-Commit"] = 1
        return header_block.build(fields) if fields else b""


class PublishAck(msgspec.Struct):
    """The server's acknowledgement: `seq` is the stream sequence, the last message's when it was a batch."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    batch: str | None = None
    count: int = 0
    error: dict[str, object] | None = None


_ack_decoder = msgspec.json.Decoder(PublishAck)


class Publisher:
    """Publishes on one connection. Any number of publishes may be in flight; callers bound theirs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._prefix = ""
        self._tokens = itertools.count()
        self._waiting: dict[str, tuple[str, asyncio.Future[PublishAck]]] = {}

    async def start(self) -> Publisher:
        """Open the inbox that acknowledgements come to."""
        self._prefix = self._connection.new_inbox()
        await self._connection.listen(f"{self._prefix}.*", self._on_ack)
        return self

    async def publish(self, message: Outgoing, timeout_s: float = ACK_TIMEOUT_S) -> PublishAck:
        """Publish one message and return once it is stored, as durably as the stream says.

        Raises:
            WrongLastSequence: the fence was lost.
            BusRefused: the server refused it otherwise.
            BusUnavailable: no answer came; the message may or may not be stored.
        """
        reply, future = self._expect(message.subject)
        try:
            self._connection.send(message.subject, message.payload, reply, message.headers())
            return await self._result(message.subject, future, timeout_s)
        finally:
            self._waiting.pop(reply, None)

    async def publish_atomic(self, messages: Sequence[Outgoing], timeout_s: float = ACK_TIMEOUT_S) -> PublishAck:
        """Publish messages of one stream so that all are stored, contiguously, or none is.

        They share one fsync. The acknowledgement's `seq` is the last one's; the one before it has `seq - 1`, and so on.

        Raises:
            WrongLastSequence: one of the fences was lost, and nothing was stored.
            BusRefused: the server refused the batch otherwise, and nothing was stored.
            BusUnavailable: no answer came; all or none are stored.
        """
        if len(messages) == 1:
            return await self.publish(messages[0], timeout_s)
        if len(messages) > BATCH_MESSAGES_MAX:
            raise BusRefused(f"{len(messages)} messages in one atomic batch; the limit is {BATCH_MESSAGES_MAX}")
        batch, final = uuid.uuid4().hex, len(messages)
        blocks = [message.headers(batch, number, last=number == final) for number, message in enumerate(messages, 1)]
        for message, block in zip(messages, blocks, strict=True):
            self._connection.check_size(message.subject, len(block) + len(message.payload))
        subject = messages[-1].subject
        reply, future = self._expect(subject)
        try:
            for number, (message, block) in enumerate(zip(messages, blocks, strict=True), 1):
                # The first answer is empty, or says that the server refuses batches; the commit's acknowledges all.
                asks = number in {1, final}
                self._connection.send(message.subject, message.payload, reply if asks else "", block)
            return await self._result(subject, future, timeout_s)
        finally:
            self._waiting.pop(reply, None)

    async def publish_all(
        self, messages: Sequence[Outgoing], timeout_s: float = ACK_TIMEOUT_S
    ) -> list[int | MillraceError]:
        """Publish messages of one stream, each on its own merits, with as few fsyncs as possible.

        Returns:
            For each message its stream sequence, or the error that `publish` would have raised for it.
        """
        results: list[int | MillraceError] = []
        for group in _groups(messages):
            results.extend(await self._publish_group(group, timeout_s))
        return results

    async def _publish_group(self, group: Sequence[Outgoing], timeout_s: float) -> list[int | MillraceError]:
        if len(group) >= ATOMIC_MESSAGES_MIN:
            try:
                last = (await self.publish_atomic(group, timeout_s)).seq
            except BusRefused:
                pass  # one lost fence refuses them all, so each is tried by itself
            except BusUnavailable as error:
                return [error] * len(group)
            else:
                return list(range(last - len(group) + 1, last + 1))
        outcomes = await asyncio.gather(
            *(self.publish(message, timeout_s) for message in group), return_exceptions=True
        )
        results: list[int | MillraceError] = []
        for outcome in outcomes:
            if isinstance(outcome, PublishAck):
                results.append(outcome.seq)
            elif isinstance(outcome, MillraceError):
                results.append(outcome)
            else:
                raise outcome
        return results

    async def publish_in_order(self, messages: Sequence[Outgoing], timeout_s: float = ACK_TIMEOUT_S) -> None:
        """Publish messages of one stream with one acknowledgement, the last one's.

        The server handles a connection's messages for a stream in order, so the last answer says that all were
        handled. One that was refused on its own (its subject is taken) is not reported: for messages whose repetition
        is harmless and whose loss is repaired elsewhere.

        Raises:
            BusRefused: the last one was refused, for another reason than a taken subject.
            BusUnavailable: no answer came.
        """
        if not messages:
            return
        for message in messages[:-1]:
            self._connection.send(message.subject, message.payload, "", message.headers())
        with contextlib.suppress(SubjectTaken):
            await self.publish(messages[-1], timeout_s)

    def _expect(self, subject: str) -> tuple[str, asyncio.Future[PublishAck]]:
        token = f"{self._prefix}.{next(self._tokens)}"
        future: asyncio.Future[PublishAck] = asyncio.get_running_loop().create_future()
        self._waiting[token] = (subject, future)
        return token, future

    async def _result(self, subject: str, future: asyncio.Future[PublishAck], timeout_s: float) -> PublishAck:
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise BusUnavailable(f"NATS did not acknowledge {subject} within {timeout_s:g} s") from error

    def _on_ack(self, token: str, _reply: str, headers: bytes, data: bytes) -> None:
        entry = self._waiting.get(token)
        if entry is None:
            return
        subject, future = entry
        if future.done():
            return
        if headers and status_of(headers)[0] == "503":
            future.set_exception(StreamMissing(f"no stream listens on {subject}"))
            return
        if not data:  # the first message of a batch is acknowledged with an empty body
            return
        ack = _ack_decoder.decode(data)
        if ack.error is not None:
            future.set_exception(refusal(ack.error, subject))
        else:
            future.set_result(ack)


def _groups(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Cut `messages` into runs within the limits of one atomic batch."""
    start, size_bytes = 0, 0
    for position, message in enumerate(messages):
        size_bytes += len(message.payload)
        if position > start and (position - start == BATCH_MESSAGES_MAX or size_bytes > BATCH_BYTES_MAX):
            yield messages[start:position]
            start, size_bytes = position, len(message.payload)
    if start < len(messages):
        yield messages[start:]
