"""The edge that other services publish to: JSON on `trigger.<workspace>.<name>`, which starts executions.

FastStream serves it, and describes it for others (`trigger_asyncapi.py`). Every message is acknowledged by hand, once
its executions are durable: FastStream's own policies give up a message that raises, or acknowledge it too early.

A message that cannot be used goes to DEAD with the reason. When it is sent again from there it counts as the first one,
so the triggers that it had fired then do not start a second execution.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from pydantic import Field

from millrace_api.adapters.dead_letters import REDRIVE_HEADER, DeadLetters
from millrace_api.adapters.trigger_firing import Firing
from millrace_api.adapters.trigger_store import TriggerStore
from millrace_api.domain.documents import decode
from millrace_api.domain.rendering import timestamp
from millrace_api.domain.trigger_rules import Occurrence
from millrace_api.errors import EventUnusable, Refused
from millrace_shared import subjects
from millrace_shared.bus.connection import PING_INTERVAL_S, RECONNECT_WAIT_S, Connection
from millrace_shared.bus.dead import bury
from millrace_shared.bus.publisher import Publisher
from millrace_shared.bus.pull import Delivery
from millrace_shared.bus.streams import NANOSECONDS, ensure_consumer

log = logging.getLogger(__name__)

CONSUMER = "api-triggers"
SERVICE = "api"
BATCH_MESSAGES = 32
"""Messages that one process handles at once, of up to a MiB each. They share the bus's batches."""
POLL_S = 2.0
"""How long one request for messages stands, and so how long a lost one is waited for."""
ACK_WAIT_S = 15
"""An event that a process has said nothing of for this long is handled by another."""
PROGRESS_S = 5.0
RETRY_S_MAX = 30.0
STOP_S = 10.0
_KEPT_HEADERS = ("traceparent", REDRIVE_HEADER)
_SEQUENCE = re.compile(r"[0-9]{1,18}")

Handler = Callable[[Any, NatsMessage], Awaitable[None]]
_event_decoder = msgspec.json.Decoder(Any)


def edge(servers: list[str], handle: Handler) -> NatsBroker:
    """Return the broker that hands every event to `handle`: the one thing that is served and described."""
    broker = NatsBroker(
        servers,
        name="api triggers",
        logger=log,
        log_level=logging.DEBUG,
        decoder=_as_it_is,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # seconds; fractions are fine
        ping_interval=PING_INTERVAL_S,
        graceful_timeout=STOP_S,
        specification_url="nats://nats:4222",
        protocol_version="1.0",
    )
    subscribe = broker.subscriber(
        subjects.trigger_event("{workspace}", "{name}"),
        stream=JStream("TRIGGERS", declare=False),
        durable=CONSUMER,
        pull_sub=PullSub(batch_size=BATCH_MESSAGES, timeout=POLL_S),
        ack_policy=AckPolicy.MANUAL,
        title="startExecutions",
    )

    @subscribe
    async def start_executions(event: Annotated[Any, Field(description="Any JSON.")], message: NatsMessage) -> None:
        await handle(event, message)

    return broker


class TriggerEvents:
    """Takes events and fires the triggers that are meant for them."""

    def __init__(
        self,
        url: str,
        connection: Connection,
        publisher: Publisher,
        store: TriggerStore,
        firing: Firing,
        dead: DeadLetters,
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._store = store
        self._firing = firing
        self._dead = dead
        self._broker = edge([part.strip() for part in url.split(",")], self._handle)

    async def start(self) -> None:
        """Take events from now on."""
        await ensure_consumer(
            self._connection,
            "TRIGGERS",
            {
                "durable_name": CONSUMER,
                "ack_policy": "explicit",
                "filter_subject": subjects.trigger_event("*", "*"),
                "ack_wait": ACK_WAIT_S * NANOSECONDS,
                "max_deliver": -1,
            },
        )
        await self._broker.start()

    async def stop(self) -> None:
        """Take no more, and return once those that were taken are settled."""
        await self._broker.stop()

    async def _handle(self, _event: Any, message: NatsMessage) -> None:
        raw = message.raw_message
        delivery = Delivery(self._connection, raw.subject, raw.data, raw.reply)
        headers = {name: value for name in _KEPT_HEADERS if (value := message.headers.get(name)) is not None}
        try:
            await self._fire(delivery, headers)
        except (Refused, EventUnusable) as error:
            await bury(self._publisher, delivery, str(error), SERVICE, headers)
        except asyncio.CancelledError:
            delivery.nak()
            raise
        except Exception as error:  # noqa: BLE001  the database or the bus, mostly: the event must not be lost
            log.warning("event on %s, tried again: %s", delivery.subject, error or type(error).__name__)
            delivery.nak(min(RETRY_S_MAX, 2.0 ** min(delivery.delivered_count, 10)))
        else:
            delivery.ack()

    async def _fire(self, delivery: Delivery, headers: dict[str, str]) -> None:
        event = decode(_event_decoder, delivery.payload)
        _, workspace, name = delivery.subject.split(".")
        triggers = await self._store.of_event(workspace, name)
        if not triggers:
            raise EventUnusable(f'no enabled trigger of the workspace "{workspace}" takes events named "{name}"')
        sequence = await self._first_sequence(delivery, headers.get(REDRIVE_HEADER))
        facts = {
            "subject": delivery.subject,
            "sequence": delivery.sequence,
            "published_at": timestamp(datetime.fromtimestamp(delivery.stored_at, UTC)),
        }
        occurrence = Occurrence(event, facts, f"event/{sequence}")
        failures = []
        told_at = time.monotonic()
        for trigger in triggers:
            if time.monotonic() - told_at > PROGRESS_S:  # one event may fire a thousand triggers
                delivery.in_progress()
                told_at = time.monotonic()
            try:
                await self._firing.fire(trigger, occurrence, traceparent=headers.get("traceparent"))
            except (Refused, EventUnusable) as error:
                failures.append(f'trigger "{trigger.spec.name}" cannot be fired: {error}')
        if failures:
            raise EventUnusable("; ".join(failures))

    async def _first_sequence(self, delivery: Delivery, redriven: str | None) -> int:
        """Return the sequence that an event first had, if it is one that was sent again.

        Anybody may send the header. So what it names must be this very message, and was then used before.
        """
        if redriven is None or _SEQUENCE.fullmatch(redriven) is None:
            return delivery.sequence
        letter = await self._dead.find(int(redriven))
        if letter is None or (letter.subject, letter.payload) != (delivery.subject, delivery.payload):
            return delivery.sequence
        return letter.sequence


async def _as_it_is(message: Any) -> Any:
    """Hand the bytes over: what is not JSON has to reach us, too."""
    return message.body
