"""A feed against a WebSocket server that breaks connections."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
from websockets.sync.server import ServerConnection, serve

from millrace.client.errors import FeedLost
from millrace.client.feed import ATTEMPTS_MAX, follow

MESSAGES = [{"id": f"{number}.0-0", "event": "step.completed", "data": {"step": f"s{number}"}} for number in range(6)]


@contextmanager
def feed_server(*, breaks_after: int, asked: list[str]) -> Iterator[str]:
    """Serves `MESSAGES` after the one that is asked for, and breaks the connection after some of them."""

    def serve_one(connection: ServerConnection) -> None:
        assert connection.request is not None
        path = connection.request.path
        asked.append(path)
        last = path.partition("last_event_id=")[2]
        start = next((index + 1 for index, message in enumerate(MESSAGES) if message["id"] == last), 0)
        for message in MESSAGES[start : start + breaks_after]:
            connection.send(json.dumps(message))
        finished = start + breaks_after >= len(MESSAGES)
        connection.close(1000 if finished else 1013)

    with serve(serve_one, "127.0.0.1", 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/feed"
        finally:
            server.shutdown()
            thread.join()


def test_a_broken_feed_goes_on_where_it_broke():
    asked: list[str] = []
    pauses: list[float] = []
    with feed_server(breaks_after=2, asked=asked) as address:
        seen = list(follow(address, {}, None, pauses.append))
    assert seen == MESSAGES
    assert asked == ["/feed", "/feed?last_event_id=1.0-0", "/feed?last_event_id=3.0-0"]
    assert pauses == [0.3, 0.3]  # each connection brought something, so the pauses do not grow


def test_it_begins_after_the_message_that_is_known():
    with feed_server(breaks_after=10, asked=[]) as address:
        assert list(follow(address, {}, "3.0-0", lambda _: None)) == MESSAGES[4:]


def test_it_gives_up_when_connections_bring_nothing():
    asked: list[str] = []
    pauses: list[float] = []
    with (
        feed_server(breaks_after=0, asked=asked) as address,
        pytest.raises(FeedLost, match="the execution goes on without it"),
    ):
        list(follow(address, {}, None, pauses.append))
    assert len(asked) == ATTEMPTS_MAX
    assert pauses == sorted(set(pauses))
    assert len(pauses) == ATTEMPTS_MAX - 1


def test_nobody_there():
    with feed_server(breaks_after=1, asked=[]) as address:
        pass
    with pytest.raises(FeedLost):
        list(follow(address, {}, None, lambda _: None))
