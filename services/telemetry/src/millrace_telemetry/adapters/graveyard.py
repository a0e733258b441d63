"""Where messages go that cannot be projected: DEAD, with the reason."""

from __future__ import annotations

import hashlib
import logging
import time

from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.dead import PAYLOAD_BYTES_MAX
from millrace_shared.bus.log_reader import read_last
from millrace_shared.bus.publisher import Outgoing, Publisher
from millrace_shared.codec import encode
from millrace_shared.messages import DeadLetter
from millrace_telemetry.adapters.follower import Message

log = logging.getLogger(__name__)

SERVICE = "telemetry"


class Graveyard:
    """Copies messages of one stream to DEAD, each once. The stream keeps its own: a log is never changed.

    A note beside the letters says which messages were buried, for as long as the letters are kept: rebuilding the
    tables meets every one of them again.
    """

    def __init__(self, connection: Connection, publisher: Publisher, stream: str) -> None:
        self._connection = connection
        self._publisher = publisher
        self._stream = stream

    async def bury(self, message: Message, reason: str) -> bool:
        """Store `message` in DEAD, unless it is there; tell whether it was not.

        Raises:
            BusUnavailable: it is not known to be stored, so the message must not be passed over yet.
        """
        note = subjects.buried(self._stream, message.sequence)
        digest = hashlib.sha256(message.payload).hexdigest().encode()  # a restored stream may hold another one here
        kept = await read_last(self._connection, "DEAD", note)
        if kept is not None and kept.payload == digest:
            return False
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
        # A crash between the two is made good by the message id, since the next try follows within seconds.
        message_id = f"{SERVICE}:{self._stream}:{message.sequence}:{digest.decode()[:16]}"
        await self._publisher.publish(Outgoing(subjects.dead(self._stream), encode(letter), message_id=message_id))
        await self._publisher.publish(Outgoing(note, digest))
        log.error("dead letter: message %d of %s: %s", message.sequence, self._stream, reason)
        return True
