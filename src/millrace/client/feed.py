"""Following an execution over a WebSocket, resumed with the id of the last message when the connection breaks."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import cast
from urllib.parse import urlencode

from millrace.client.errors import FeedLost
from millrace.client.shapes import LiveMessage

ATTEMPTS_MAX = 5
"""Connections in a row that bring nothing."""
BACKOFF_S = 0.3
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
OPEN_TIMEOUT_S = 10.0
ENDED = 1000
"""The close code that says: the execution has ended and everything was sent."""


def follow(
    address: str, headers: Mapping[str, str], after: str | None, pause: Callable[[float], None]
) -> Iterator[LiveMessage]:
    """Yield the messages of a feed until the server says that it has ended.

    Args:
        address: of the WebSocket, without a query.
        headers: sent with each connection.
        after: the id of the last message that was seen.
        pause: waits so many seconds between attempts.

    Raises:
        FeedLost: no connection, `ATTEMPTS_MAX` times in a row.
    """
    from websockets.exceptions import ConnectionClosed, InvalidHandshake
    from websockets.sync.client import connect

    failures = 0
    while True:
        query = f"?{urlencode({'last_event_id': after})}" if after else ""
        try:
            with connect(
                address + query,
                additional_headers=dict(headers),
                max_size=MESSAGE_BYTES_MAX,
                open_timeout=OPEN_TIMEOUT_S,
                proxy=None,
            ) as socket:
                while True:
                    message = cast("LiveMessage", json.loads(socket.recv()))
                    failures = 0
                    after = message["id"]
                    yield message
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code == ENDED:
                return
            reason = str(closed)
        except (OSError, TimeoutError, InvalidHandshake) as error:
            reason = str(error)
        failures += 1
        if failures >= ATTEMPTS_MAX:
            raise FeedLost(f"the live feed broke and cannot be resumed ({reason}); the execution goes on without it")
        pause(BACKOFF_S * 2 ** (failures - 1))
