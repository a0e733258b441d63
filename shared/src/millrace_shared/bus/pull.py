"""Pulling from a durable consumer: credit, a watchdog, and pins.

nats-py's `fetch` is slow and loses its request when the server restarts. This loop keeps a request open, never asks
for more than the caller has room for, and starts again when the server has been silent for too long.

Credit: the caller has `capacity` places. A delivered message takes one until `release`; a request asks for the places
that are neither taken nor already asked for, and a new one goes out once half of them are. So a runner with four
free slots is never sent a fifth message, which another runner could have started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from millrace_shared.bus.connection import Connection
from millrace_shared.bus.headers import status_of, value_of

log = logging.getLogger(__name__)

NANOSECONDS = 1_000_000_000
REQUEST_EXPIRES_S = 30.0
HEARTBEAT_S = 5.0
SILENCE_FACTOR = 2.5
"""A request is given up after this many heartbeats (or, without them, its own time and a second) of silence."""
SECOND_LOOK_S = 0.05
"""Silence counts when it goes on for this long after it was noticed. It may have been this process that stood still,
and what the server sent meanwhile is then read first: an inbox that is closed before would lose it."""
RETRY_WAIT_S = 0.25

ACK = b"+ACK"
NAK = b"-NAK"
IN_PROGRESS = b"+WPI"
TERMINATE = b"+TERM"
SHORT_REPLY_TOKENS = 9


@dataclass(slots=True)
class Delivery:
    """A message that was delivered and must be acknowledged, or left to come again."""

    connection: Connection
    subject: str
    payload: bytes
    reply: str

    @property
    def delivered_count(self) -> int:
        """How often this message was delivered, this time included."""
        return int(self._meta(4))

    @property
    def sequence(self) -> int:
        """The message's sequence in its stream."""
        return int(self._meta(5))

    @property
    def stored_at(self) -> float:
        """When the stream stored the message, in Unix seconds."""
        return int(self._meta(7)) / NANOSECONDS

    @property
    def stream(self) -> str:
        """The stream that it came from."""
        return self._meta(2)

    def without_payload(self) -> Delivery:
        """Return what is needed to acknowledge it, and no more, for who keeps very many."""
        return Delivery(self.connection, "", b"", self.reply)

    def _meta(self, position: int) -> str:
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, and in the longer form
        # $JS.ACK.<domain>.<account>.<stream>. ... .<pending>[.<token>]
        tokens = self.reply.split(".")
        return tokens[position] if len(tokens) == SHORT_REPLY_TOKENS else tokens[position + 2]

    def ack(self) -> None:
        """Done: the message may be removed."""
        self.connection.send(self.reply, ACK)

    def nak(self, delay_s: float = 0.0) -> None:
        """Not now: deliver it again after `delay_s`."""
        body = b'%b {"delay": %d}' % (NAK, int(delay_s * NANOSECONDS)) if delay_s else NAK
        self.connection.send(self.reply, body)

    def in_progress(self) -> None:
        """Still at it: start the acknowledgement wait anew."""
        self.connection.send(self.reply, IN_PROGRESS)

    def terminate(self) -> None:
        """Never deliver it again. Only after it was copied to DEAD."""
        self.connection.send(self.reply, TERMINATE)


class PullLoop:
    """Keeps a consumer's messages coming to `deliver`, within the credit of `capacity`.

    Args:
        connection: the bus.
        stream: the stream's name.
        consumer: the durable consumer's name.
        deliver: called for each message, from the read loop: it must not block.
        capacity: most messages that are delivered and not yet released.
        group: the priority group of a pinned consumer.
        on_pinned: called with True when this loop becomes the consumer's pinned client, and False when it no longer is.
        expires_s: how long the server holds one request open. A pinned client must ask more often than the pin lives.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        deliver: Callable[[Delivery], None],
        *,
        capacity: int,
        group: str | None = None,
        on_pinned: Callable[[bool], None] | None = None,
        expires_s: float = REQUEST_EXPIRES_S,
    ) -> None:
        self._connection = connection
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._name = f"{stream}/{consumer}"
        self._deliver = deliver
        self.capacity = capacity
        self._group = group
        self._on_pinned = on_pinned
        self._expires_s = expires_s
        self._heartbeat_s = HEARTBEAT_S if expires_s > 2 * HEARTBEAT_S else 0.0
        self._taken = 0
        self._asked = 0
        self._pin = ""
        self._heard_at = 0.0
        self._inbox = ""
        self._subscription: Any = None
        self._task: asyncio.Task[None] | None = None
        self._pause_until = 0.0
        self._stopping = False

    @property
    def pinned(self) -> bool:
        """Whether this loop is, as far as it knows, the consumer's pinned client."""
        return bool(self._pin)

    @property
    def taken(self) -> int:
        """Messages that are delivered and not released."""
        return self._taken

    @property
    def asked(self) -> int:
        """Messages that are asked for and not delivered yet."""
        return self._asked

    async def start(self) -> None:
        """Open the inbox and the first request."""
        await self._open()
        self._task = asyncio.create_task(self._watch(), name=f"pull {self._name}")
        self._connection.on_reconnect.append(self._restart)

    async def stop(self) -> None:
        """Ask for nothing more. Messages delivered already are still the caller's to acknowledge."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(ValueError):
            self._connection.on_reconnect.remove(self._restart)
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await self._connection.unlisten(subscription)

    def release(self, count: int = 1) -> None:
        """Give back the places of `count` delivered messages."""
        self._taken -= count
        self._ask()

    def request(self) -> None:
        """Ask for all the places that are free now, however few: for a caller that has just raised `capacity`."""
        self._ask(least=1)

    async def _open(self) -> None:
        if self._subscription is not None:
            await self._connection.unlisten(self._subscription)
        self._inbox = self._connection.new_inbox()
        self._asked = 0
        self._subscription = await self._connection.listen(f"{self._inbox}.*", self._on_message)
        self._ask()

    def _ask(self, least: int | None = None) -> None:
        free = self.capacity - self._taken - self._asked
        worthwhile = (self.capacity - self._taken + 1) // 2 if least is None else least
        if self._stopping or free <= 0 or free < worthwhile:
            return
        if time.monotonic() < self._pause_until:
            return
        if not self._connection.is_connected:  # it would be sent later, besides the request that `_restart` makes
            return
        request: dict[str, Any] = {"batch": free, "expires": int(self._expires_s * NANOSECONDS)}
        if self._heartbeat_s:
            request["idle_heartbeat"] = int(self._heartbeat_s * NANOSECONDS)
        if self._group is not None:
            request["group"] = self._group
            if self._pin:
                request["id"] = self._pin
        self._asked += free
        self._heard_at = time.monotonic()
        self._connection.send(self._subject, msgspec.json.encode(request), f"{self._inbox}.{free}")

    def _on_message(self, subject: str, reply: str, headers: bytes, payload: bytes) -> None:
        self._heard_at = time.monotonic()
        if not reply:
            if headers:
                self._on_status(headers, int(subject.rpartition(".")[2]))
            return
        if self._group is not None and headers:
            self._on_pin(value_of(headers, "Nats-Pin-Id") or "")
        self._asked = max(0, self._asked - 1)
        self._taken += 1
        self._deliver(Delivery(self._connection, subject, payload, reply))
        self._ask()

    def _on_pin(self, pin: str) -> None:
        if pin and pin != self._pin:
            was_pinned, self._pin = self.pinned, pin
            if self._on_pinned is not None and not was_pinned:
                self._on_pinned(True)

    def _on_status(self, headers: bytes, batch: int) -> None:
        """Handle what the server says about a request for `batch` messages."""
        status, description = status_of(headers)
        if status == "100":  # idle heartbeat
            return
        if status == "423":  # this client's pin is not the consumer's any more
            self._asked = 0
            self._pin = ""
            if self._on_pinned is not None:
                self._on_pinned(False)
        elif status in {"408", "409"}:  # the request ran out, or the server ended it
            undelivered = value_of(headers, "Nats-Pending-Messages")
            if undelivered:
                self._asked = max(0, self._asked - int(undelivered))
            elif "Exceeded" in description:  # this request is refused, and earlier ones stand
                self._asked = max(0, self._asked - batch)
            else:
                self._asked = 0
            if status == "409":
                self._pause(description)
                return
        else:  # 503 no responders, 404 no consumer, 400: nobody is there yet, or the stream is being made
            self._asked = 0
            self._pause(f"{status} {description}")
            return
        self._ask()

    def _pause(self, reason: str) -> None:
        log.warning("pull %s: %s; asking again in %g s", self._name, reason.strip(), RETRY_WAIT_S)
        self._pause_until = time.monotonic() + RETRY_WAIT_S
        asyncio.get_running_loop().call_later(RETRY_WAIT_S + 0.01, self._ask)

    def _restart(self) -> None:
        """The connection is new: requests of the old one are gone."""
        self._asked = 0
        self._ask()

    async def _watch(self) -> None:
        patience_s = self._heartbeat_s * SILENCE_FACTOR if self._heartbeat_s else self._expires_s + 1.0

        def silent_s() -> float:
            is_waiting = self._asked and self._connection.is_connected
            return time.monotonic() - self._heard_at if is_waiting else 0.0

        while True:
            await asyncio.sleep(patience_s / 2)
            if silent_s() > patience_s:
                await asyncio.sleep(SECOND_LOOK_S)
                if silent_s() > patience_s:
                    log.warning("pull %s: no sign of the server for %.1f s; starting again", self._name, silent_s())
                    await self._open()
