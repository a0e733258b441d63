"""Dead letters: what cannot be processed is copied to DEAD with the reason, and only then removed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from millrace_shared import subjects
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.bus.pull import Delivery
from millrace_shared.codec import encode
from millrace_shared.errors import BusUnavailable
from millrace_shared.messages import DeadLetter

log = logging.getLogger(__name__)

PAYLOAD_BYTES_MAX = 1024 * 1024
"""More of a poison message than this is not kept."""


async def bury(
    publisher: Publisher, delivery: Delivery, reason: str, service: str, headers: Mapping[str, str] | None = None
) -> None:
    """Copy `delivery` to DEAD and end it. When DEAD cannot take it, it is left to be delivered again.

    Args:
        publisher: the bus.
        delivery: the message.
        reason: what is wrong with it, for people.
        service: who says so.
        headers: those of its headers that a repetition needs.
    """
    letter = DeadLetter(
        stream=delivery.stream,
        subject=delivery.subject,
        reason=reason,
        service=service,
        at=time.time(),
        payload=delivery.payload[:PAYLOAD_BYTES_MAX],
        sequence=delivery.sequence,
        truncated=len(delivery.payload) > PAYLOAD_BYTES_MAX,
        headers=dict(headers or {}),
    )
    message_id = f"{delivery.stream}:{delivery.sequence}"
    try:
        await publisher.publish(Outgoing(subjects.dead(delivery.stream), encode(letter), message_id=message_id))
    except (BusUnavailable, BusRefused) as error:
        log.warning("dead letter of %s not stored, it will come again: %s", delivery.subject, error)
        return
    log.error("dead letter: %s on %s: %s", delivery.stream, delivery.subject, reason)
    delivery.terminate()
