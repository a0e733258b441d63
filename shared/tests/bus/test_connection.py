import asyncio
import inspect
import socket
from collections.abc import Callable

import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription

from millrace.embedded import BackgroundStack
from millrace_shared.bus import headers
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.errors import BusRefused, MessageTooLarge, StreamMissing
from millrace_shared.errors import BusUnavailable

Eventually = Callable[[Callable[[], bool]], "asyncio.Future[None]"]
Heard = tuple[str, str, bytes, bytes]


def listener(heard: list[Heard]) -> Callable[[str, str, bytes, bytes], None]:
    return lambda *message: heard.append(message)


def test_what_is_overridden_of_nats_py_is_still_there():
    """The exact signatures that `Connection` leans on: an upgrade of nats-py that moves them must fail here."""
    for name in ("_process_msg", "_process_err"):
        ours, theirs = inspect.signature(getattr(Connection, name)), inspect.signature(getattr(Client, name))
        assert list(ours.parameters) == list(theirs.parameters)
        assert inspect.iscoroutinefunction(getattr(Client, name))
    assert list(inspect.signature(Client._process_op_err).parameters) == ["self", "e"]
    client = Client()
    assert client._pending == []
    assert client._pending_data_size == 0
    assert client._flush_queue is None
    assert "_id" in vars(Subscription(client, id=7))


async def test_a_listener_hears_subject_reply_headers_and_payload(
    bus: Connection, other_bus: Connection, eventually: Eventually
):
    heard: list[Heard] = []
    subject = bus.new_inbox()
    await bus.listen(f"{subject}.*", listener(heard))
    await bus.flush()
    block = headers.build({"Name": "value"})
    other_bus.send(f"{subject}.a", b"plain")
    other_bus.send(f"{subject}.b", b"with all", "answer.here", block)
    other_bus.send(f"{subject}.c", b"")
    await eventually(lambda: len(heard) == 3)
    assert heard == [
        (f"{subject}.a", "", b"", b"plain"),
        (f"{subject}.b", "answer.here", block, b"with all"),
        (f"{subject}.c", "", b"", b""),
    ]


async def test_messages_of_one_sender_keep_their_order(bus: Connection, eventually: Eventually):
    heard: list[Heard] = []
    subject = bus.new_inbox()
    await bus.listen(subject, listener(heard))
    for number in range(5000):
        bus.send(subject, b"%d" % number)
    await eventually(lambda: len(heard) == 5000)
    assert [int(message[3]) for message in heard] == list(range(5000))


async def test_a_listener_that_raises_loses_its_message_and_nothing_else(
    bus: Connection, eventually: Eventually, caplog: pytest.LogCaptureFixture
):
    heard: list[bytes] = []
    subject = bus.new_inbox()

    def fail_on_bad(_subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        if payload == b"bad":
            raise ZeroDivisionError
        heard.append(payload)

    await bus.listen(subject, fail_on_bad)
    for payload in (b"one", b"bad", b"two"):
        bus.send(subject, payload)
    await eventually(lambda: len(heard) == 2)
    assert heard == [b"one", b"two"]
    assert f"a listener failed on a message for {subject}" in caplog.text


async def test_nothing_is_heard_after_unlisten(bus: Connection, eventually: Eventually):
    heard: list[Heard] = []
    markers: list[Heard] = []
    subject, marker = bus.new_inbox(), bus.new_inbox()
    subscription = await bus.listen(subject, listener(heard))
    await bus.listen(marker, listener(markers))
    await bus.unlisten(subscription)
    bus.send(subject, b"too late")
    bus.send(marker, b"")
    await eventually(lambda: bool(markers))
    assert heard == []


async def test_unlisten_on_a_closed_connection_does_nothing(nats_url: str):
    connection = await connect(nats_url, "tests")
    subscription = await connection.listen("anything", listener([]))
    await connection.close()
    await connection.unlisten(subscription)


async def test_ordinary_subscriptions_of_nats_py_still_work(bus: Connection):
    subject = bus.new_inbox()
    subscription = await bus.subscribe(subject)
    bus.send(subject, b"payload", headers=headers.build({"Name": "value"}))
    message = await subscription.next_msg(timeout=10)
    assert (message.data, message.headers) == (b"payload", {"Name": "value"})


async def test_ask_returns_the_answer(bus: Connection, other_bus: Connection):
    subject = bus.new_inbox()
    await other_bus.listen(subject, lambda _s, reply, _h, payload: other_bus.send(reply, payload[::-1]))
    await other_bus.flush()
    answers = await asyncio.gather(*(bus.ask(subject, b"%03d" % number) for number in range(100)))
    assert answers == [(b"%03d" % number)[::-1] for number in range(100)]


async def test_ask_says_at_once_that_nobody_listens(bus: Connection):
    with pytest.raises(BusUnavailable, match="nobody answers on nowhere"):
        await bus.ask("nowhere", b"", timeout_s=3600)


async def test_ask_gives_up_on_silence(bus: Connection):
    subject = bus.new_inbox()
    await bus.listen(subject, listener([]))
    with pytest.raises(BusUnavailable, match=r"did not answer .* within 0.05 s"):
        await bus.ask(subject, b"", timeout_s=0.05)


async def test_ask_leaves_nothing_behind(bus: Connection):
    listeners, subscriptions = dict(bus._listeners), dict(bus._subs)
    await bus.jetstream_api("INFO")
    with pytest.raises(BusUnavailable):
        await bus.ask("nowhere", b"")
    assert (bus._listeners, bus._subs) == (listeners, subscriptions)


async def test_the_jetstream_api_answers_or_refuses(bus: Connection, stream: str):
    assert (await bus.jetstream_api(f"STREAM.INFO.{stream}"))["config"]["name"] == stream
    with pytest.raises(StreamMissing) as missing:
        await bus.jetstream_api("STREAM.INFO.NOT_THERE")
    assert missing.value.code == 10059
    with pytest.raises(BusRefused) as refused:
        await bus.jetstream_api("STREAM.CREATE.X", {"name": "X", "subjects": [f"{stream}.>"]})
    assert type(refused.value) is BusRefused
    assert refused.value.code == 10065


async def test_a_message_that_the_server_would_not_take_is_refused_here(bus: Connection, eventually: Eventually):
    """The server closes the connection of whoever sends one, and with it everything else that is in flight."""
    heard: list[Heard] = []
    subject = bus.new_inbox()
    await bus.listen(subject, listener(heard))
    with pytest.raises(MessageTooLarge, match=r"8388609 bytes.* limit is 8388608"):
        bus.send(subject, b"x" * (bus.max_payload + 1))
    block = headers.build({"Name": "value"})
    with pytest.raises(MessageTooLarge):
        bus.send(subject, b"x" * (bus.max_payload - len(block) + 1), headers=block)
    bus.send(subject, b"x" * (bus.max_payload - len(block)), headers=block)
    await eventually(lambda: len(heard) == 1)
    assert bus.is_connected


async def test_an_error_that_the_server_ends_the_connection_with_does_not_end_it_for_good(nats_url: str):
    connection = await connect(nats_url, "tests")
    reconnected = asyncio.Event()
    connection.on_reconnect.append(reconnected.set)
    heard: list[Heard] = []
    await connection.listen("still.here", listener(heard))
    connection._pending.append(b"NONSENSE\r\n")
    connection._pending_data_size += len(b"NONSENSE\r\n")
    async with asyncio.timeout(60):
        with pytest.raises(BusUnavailable):
            await connection.ask("nowhere", b"", timeout_s=0.2)
        await reconnected.wait()
    assert connection.is_connected
    assert await connection.jetstream_api("INFO")
    await connection.close()


async def test_a_killed_server_is_found_again_with_everything_that_listens(
    fresh_nats: BackgroundStack, eventually: Eventually
):
    connection = await connect(fresh_nats.nats_url, "tests")
    disconnects: list[int] = []
    reconnects: list[int] = []
    heard: list[Heard] = []
    connection.on_disconnect.append(lambda: disconnects.append(1))
    connection.on_reconnect.append(lambda: reconnects.append(1))
    await connection.listen("subject", listener(heard))
    await connection.jetstream_api("STREAM.CREATE.KEPT", {"name": "KEPT", "subjects": ["kept"]})

    fresh_nats.kill("nats")
    await eventually(lambda: bool(disconnects))
    connection.send("subject", b"sent while it was away")
    await eventually(lambda: bool(reconnects))
    await eventually(lambda: bool(heard))

    assert [message[3] for message in heard] == [b"sent while it was away"]
    assert (await connection.jetstream_api("STREAM.INFO.KEPT"))["config"]["subjects"] == ["kept"]
    await connection.close()


async def test_connect_gives_up_on_a_server_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"nats://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        async with asyncio.timeout(60):
            with pytest.raises(BusUnavailable, match=r"within 0.1 s.*ConnectionRefusedError") as unavailable:
                await connect(url, "tests", wait_s=0.1)
    assert "secret" not in str(unavailable.value)


async def test_connect_waits_for_a_server_that_is_still_starting(
    fresh_nats: BackgroundStack, caplog: pytest.LogCaptureFixture, eventually: Eventually
):
    fresh_nats.kill("nats")
    connection = await connect(fresh_nats.nats_url, "tests")
    assert connection.is_connected
    await connection.close()
