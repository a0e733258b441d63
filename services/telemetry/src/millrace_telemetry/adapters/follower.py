"""Follows a stream in order, from any offset, and missing nothing that the stream still holds.

The consumer is ephemeral, in memory and without acknowledgements: the offset in Postgres is the only place that says
how far we are, so the server has nothing to remember or to write. Whenever anything is odd (the connection was lost,
the consumer is gone, the server is silent, a delivery is missing) the consumer is made again, one message after the
last that was received. Consumer sequences are contiguous, so a lost delivery shows at once; a jump of the stream's
own sequence without one means that the stream does not hold those messages any more, which is counted. They expired
with their logs, or were lost: the stream does not tell which.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
import uuid
from collections import deque
from dataclasses import dataclass
from typing import Any

import msgspec

from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.headers import status_of, value_of
from millrace_shared.errors import BusUnavailable
from millrace_telemetry.errors import LogDiverged
from millrace_telemetry.metrics import StreamMetrics

log = logging.getLogger(__name__)

NANOSECONDS = 1_000_000_000
REQUEST_EXPIRES_S = 60.0
HEARTBEAT_S = 15.0
SILENCE_S = 2.5 * HEARTBEAT_S
INACTIVE_S = 120.0
"""The server removes a consumer that nobody has asked for this long."""
REQUEST_BYTES_MAX = 8 * 1024 * 1024
"""Most bytes that one request brings; more than the largest message (4 MiB), so it always brings one. No request is
sent while more than this waits here, so memory is bounded by twice this."""
REOPEN_WAIT_S = 0.25


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the stream."""

    sequence: int
    subject: str
    payload: bytes


class Follower:
    """Reads one stream in order.

    Args:
        connection: the bus.
        stream: the stream's name.
        filters: subjects to read; empty for all, and only then can missing messages be noticed.
        capacity: most messages that wait here.
        metrics: where lag and missing messages are counted.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        filters: tuple[str, ...] = (),
        *,
        capacity: int,
        metrics: StreamMetrics,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._filters = filters
        self._capacity = capacity
        self._metrics = metrics
        self._messages: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._size_bytes = 0
        self._received = 0
        self._subject = ""
        self._delivered = 0
        self._behind = 0
        self._asked = 0
        self._has_told_of_gap = False
        self._heard_at = 0.0
        self._broken: str | None = None
        self._interruption: Exception | None = None
        self._consumer = ""
        self._inbox = ""
        self._subscription: Any = None

    async def start(self, after: int, subject: str) -> None:
        """Begin after the message of sequence `after`, which stands on `subject` (unknown when empty).

        Raises:
            LogDiverged: this stream is not the one that `after` was counted in.
            BusUnavailable: the server did not answer.
        """
        self._received, self._subject = after, subject
        self._connection.on_reconnect.append(self._on_reconnect)
        await self._open()

    async def stop(self) -> None:
        """Ask for nothing more."""
        with contextlib.suppress(ValueError):
            self._connection.on_reconnect.remove(self._on_reconnect)
        with contextlib.suppress(BusUnavailable):
            await self._close()

    def interrupt(self, error: Exception) -> None:
        """Make `batch` raise `error`, now or when it is called next."""
        self._interruption = error
        self._arrived.set()

    async def batch(self, messages_max: int, linger_s: float = 0.0, wait_s: float = math.inf) -> list[Message]:
        """Wait for messages, and return those that have arrived, at most `messages_max`.

        Args:
            messages_max: most messages to return.
            linger_s: how long to let more arrive when there are fewer.
            wait_s: how long to wait for the first; then there are none.

        Raises:
            LogDiverged: the server came back with another stream.
            Exception: what `interrupt` was given.
        """
        await self._wait(wait_s)
        if linger_s and 0 < len(self._messages) < messages_max and self._broken is None:
            await asyncio.sleep(linger_s)
        messages = self._messages
        taken = [messages.popleft() for _ in range(min(len(messages), messages_max))]
        self._size_bytes -= sum(len(message.payload) for message in taken)
        self._ask()
        return taken

    @property
    def lag(self) -> int:
        """Messages that the stream held when it last delivered one, and that `batch` has not returned."""
        return self._behind + len(self._messages)

    async def _wait(self, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        while not self._messages and time.monotonic() < end:
            self._raise_interruption()
            if self._broken is not None:
                await self._reopen()
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(SILENCE_S, wait_s)):
                    await self._arrived.wait()
            if time.monotonic() - self._heard_at >= SILENCE_S and self._connection.is_connected:
                self._break(f"no sign of the server for {SILENCE_S:g} s")
        self._raise_interruption()

    def _raise_interruption(self) -> None:
        if self._interruption is not None:
            error, self._interruption = self._interruption, None
            raise error

    async def _compare(self) -> None:
        """Is this the stream that was followed before? Its end, and the last message's subject, say so.

        A server that does not sync each write may come back from a power failure without its last messages, and give
        their sequences to others.
        """
        after, subject = self._received, self._subject
        state = (await self._connection.jetstream_api(f"STREAM.INFO.{self._stream}"))["state"]
        if state["last_seq"] < after:
            raise LogDiverged(
                f"{self._stream} ends at {state['last_seq']}, but is projected up to {after}: it was restored or "
                "replaced. Run `python -m millrace_telemetry rebuild`"
            )
        if after and subject and state["first_seq"] <= after:
            body = await self._connection.ask(
                f"$JS.API.STREAM.MSG.GET.{self._stream}", msgspec.json.encode({"seq": after})
            )
            found = msgspec.json.decode(body).get("message", {}).get("subject", subject)
            if found != subject:
                raise LogDiverged(
                    f"message {after} of {self._stream} is not the one that was projected: the stream was restored or "
                    "replaced. Run `python -m millrace_telemetry rebuild`"
                )

    async def _open(self) -> None:
        await self._compare()
        self._broken = None
        self._delivered = 0
        self._asked = 0
        self._consumer = f"telemetry-{uuid.uuid4().hex[:12]}"
        config: dict[str, Any] = {
            "name": self._consumer,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._received + 1,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE_S * NANOSECONDS),
        }
        if self._filters:
            config["filter_subjects"] = list(self._filters)
        self._inbox = self._connection.new_inbox()
        self._subscription = await self._connection.listen(self._inbox, self._on_message)
        answer = await self._connection.jetstream_api(
            f"CONSUMER.CREATE.{self._stream}.{self._consumer}", {"stream_name": self._stream, "config": config}
        )
        self._behind = answer.get("num_pending", 0)
        self._metrics.lag.set(self.lag)
        self._ask()

    async def _close(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._connection.unlisten(subscription)
        if self._consumer and self._connection.is_connected:
            with contextlib.suppress(BusRefused):  # it is gone already
                await self._connection.jetstream_api(f"CONSUMER.DELETE.{self._stream}.{self._consumer}")
        self._consumer = ""

    async def _reopen(self) -> None:
        log.info("following %s again from %d: %s", self._stream, self._received + 1, self._broken)
        try:
            await self._close()
            await self._open()
        except (BusRefused, BusUnavailable) as error:
            self._break(str(error))
            await asyncio.sleep(REOPEN_WAIT_S)

    def _ask(self) -> None:
        """Keep one request open while there is room."""
        room = self._capacity - len(self._messages)
        if self._asked or self._broken is not None or room <= self._capacity // 2:
            return
        if self._size_bytes > REQUEST_BYTES_MAX:
            return
        self._asked = room
        self._heard_at = time.monotonic()
        request = {
            "batch": room,
            "max_bytes": REQUEST_BYTES_MAX,
            "expires": int(REQUEST_EXPIRES_S * NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_S * NANOSECONDS),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        self._connection.send(subject, msgspec.json.encode(request), self._inbox)

    def _on_message(self, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        self._heard_at = time.monotonic()
        if not reply:
            self._on_status(headers)
            return
        if self._broken is not None:
            return
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>
        _, sequence, delivered, _, pending = reply.rsplit(".", 4)
        if int(delivered) != self._delivered + 1:
            self._break(f"delivery {self._delivered + 1} was lost")
            return
        self._delivered += 1
        stream_sequence = int(sequence)
        if stream_sequence != self._received + 1 and not self._filters:
            self._on_gap(self._received + 1, stream_sequence - 1)
        self._received, self._subject = stream_sequence, subject
        self._size_bytes += len(payload)
        self._behind = int(pending)
        self._asked -= 1
        self._messages.append(Message(stream_sequence, subject, payload))
        self._arrived.set()
        self._ask()

    def _on_gap(self, first: int, last: int) -> None:
        self._metrics.missing.inc(last - first + 1)
        if not self._has_told_of_gap:  # a rebuild meets one for every log that has expired
            self._has_told_of_gap = True
            log.warning(
                "%s does not hold its messages %d to %d any more: they expired with their logs, or were lost, and are "
                "passed over. Further ones are counted only (millrace_projection_missing_total)",
                self._stream,
                first,
                last,
            )

    def _on_status(self, headers: bytes) -> None:
        status, description = status_of(headers)
        if status == "100" and not value_of(headers, "Nats-Consumer-Stalled"):  # idle heartbeat
            return
        if status == "408" or (status == "409" and "Exceeds MaxBytes" in description):  # the request ran out
            self._asked = 0
            self._ask()
        else:
            self._break(f"{status} {description}")

    def _on_reconnect(self) -> None:
        self._break("the connection is new")

    def _break(self, reason: str) -> None:
        if self._broken is None:
            self._broken = reason
        self._arrived.set()
