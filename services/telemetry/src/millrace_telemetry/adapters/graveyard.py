"""Where messages go that cannot be projected: DEAD, with the reason."""

from __future__ import annotations

import logging
import time

from millrace_shared import subjects
from millrace_shared.bus.dead import PAYLOAD_BYTES_MAX
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.messages import DeadLetter
from millrace_telemetry.adapters.follower import Message

log = logging.getLogger(__name__)

SERVICE = "telemetry"


class Graveyard:
    """Copies messages of one stream to DEAD. The stream keeps its own: a log is never changed."""

    def __init__(self, publisher: Publisher, stream: str) -> None:
        self._publisher = publisher
        self._stream = stream

    async def bury(self, message: Message, reason: str) -> None:
        """Store `message` in DEAD. Repeating it within the duplicate window stores it once.

        Raises:
            BusUnavailable: it is not known to be stored, so the message must not be passed over yet.
        """
        letter = DeadLetter(
            stream=self._stream,
            subject=message.subject,
            reason=reason,
            service=SERVICE,
            at=time.time(),
            payload=message.payload[:PAYLOAD_BYTES_MAX],
            sequence=message.sequence,
            truncated=len(message.payload) > PAYLOAD_BYTES_MAX,
        )
        message_id = f"{SERVICE}:{self._stream}:{message.sequence}"
        await self._publisher.publish(Outgoing(subjects.dead(self._stream), encode(letter), message_id=message_id))
        log.error("dead letter: message %d of %s: %s", message.sequence, self._stream, reason)
