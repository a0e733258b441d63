"""One NATS connection, with a direct path for the hot loops.

nats-py hands each message to a queue, a task and a callback, and parses its headers first. The pull loop and the
publisher need none of that: for subscriptions made with `listen`, `Connection` calls a plain function with the raw
header block from the read loop itself, and `send` writes without a coroutine. That is worth about two thirds of the
cost of a message (`benchmarks/bus.py`). It leans on private parts of nats-py, hence the exact pin in pyproject.toml
and `tests/bus/test_connection.py`. Everything else here is nats-py as it comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from millrace_shared.bus.errors import BusRefused, MessageTooLarge, StreamMissing, refusal
from millrace_shared.bus.headers import status_of
from millrace_shared.errors import BusUnavailable

log = logging.getLogger(__name__)

Listener = Callable[[str, str, bytes, bytes], None]
"""Called with subject, reply subject, header block (empty when there is none) and payload. Must not block or raise."""

REQUEST_TIMEOUT_S = 5.0
RECONNECT_WAIT_S = 0.2
PING_INTERVAL_S = 20


class Connection(Client):
    """A nats-py client that can also `listen` and `send` directly."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: dict[int, Listener] = {}
        self.on_reconnect: list[Callable[[], None]] = []
        self.on_disconnect: list[Callable[[], None]] = []

    async def listen(self, subject: str, listener: Listener) -> Subscription:
        """Subscribe, and call `listener` for each message straight from the read loop."""
        subscription = await self.subscribe(subject)
        self._listeners[subscription._id] = listener  # noqa: SLF001
        return subscription

    async def unlisten(self, subscription: Subscription) -> None:
        """End a `listen`. Does nothing when the connection is closed already."""
        self._listeners.pop(subscription._id, None)  # noqa: SLF001
        if not self.is_closed:
            await subscription.unsubscribe()

    def send(self, subject: str, payload: bytes, reply: str = "", headers: bytes = b"") -> None:
        """Queue one message for the socket. `headers` is a whole header block, or empty.

        While the connection is down messages wait in nats-py's buffer. Callers bound what they have in flight.

        Raises:
            MessageTooLarge: the server would take it for an attack, and close the connection.
        """
        self.check_size(subject, len(headers) + len(payload))
        if headers:
            size = len(headers)
            command = f"HPUB {subject} {reply} {size} {size + len(payload)}\r\n".encode() + headers
        else:
            command = f"PUB {subject} {reply} {len(payload)}\r\n".encode()
        command = b"%b%b\r\n" % (command, payload)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._flush_queue is not None and self._flush_queue.empty() and self.is_connected:
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())

    def check_size(self, subject: str, size_bytes: int) -> None:
        """Check that the server takes a message of `size_bytes`, header block and payload together.

        Raises:
            MessageTooLarge: it does not.
        """
        if size_bytes > self._max_payload:
            raise MessageTooLarge(
                f"a message for {subject} has {size_bytes} bytes; the NATS server's limit is {self._max_payload}"
            )

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        listener = self._listeners.get(sid)
        if listener is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            listener(subject.decode(), reply.decode(), headers or b"", data)
        except Exception:  # the read loop must outlive one bad message, so the error is logged and kept out of it
            log.exception("a listener failed on a message for %s", subject.decode(errors="replace"))

    async def _process_err(self, err_msg: str) -> None:
        """Connect again after any error that the server ends the connection with; nats-py would stay closed."""
        if "permissions violation" in err_msg.lower():  # the connection stands
            await super()._process_err(err_msg)
        else:
            await self._process_op_err(NatsError(f"nats: {err_msg}"))

    async def ask(self, subject: str, payload: bytes, timeout_s: float = REQUEST_TIMEOUT_S) -> bytes:
        """Send a request and return the answer's payload.

        Raises:
            BusUnavailable: nobody answered within `timeout_s`.
        """
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def answer(_subject: str, _reply: str, headers: bytes, data: bytes) -> None:
            if future.done():
                return
            if headers and status_of(headers)[0] == "503":
                future.set_exception(BusUnavailable(f"nobody answers on {subject}: is JetStream running?"))
            else:
                future.set_result(data)

        inbox = self.new_inbox()
        subscription = await self.listen(inbox, answer)
        try:
            self.send(subject, payload, inbox)
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise BusUnavailable(f"NATS did not answer on {subject} within {timeout_s:g} s") from error
        finally:
            await self.unlisten(subscription)

    async def jetstream_api(self, operation: str, body: Any = None) -> dict[str, Any]:
        """Call the JetStream API (`STREAM.CREATE.EVENTS`, say) and return its answer.

        Raises:
            BusRefused: the server answered with an error.
            BusUnavailable: it did not answer.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        answer: dict[str, Any] = msgspec.json.decode(await self.ask(f"$JS.API.{operation}", payload))
        if "error" in answer:
            raise refusal(answer["error"], operation)
        return answer


async def connect(url: str, name: str, *, wait_s: float = 30.0) -> Connection:
    """Connect to NATS and keep the connection for ever, through any number of server restarts.

    Args:
        url: `nats://user:password@host:port`, or several, separated by commas.
        name: shown by the server in its connection list.
        wait_s: how long to wait for a server that is still starting.

    Raises:
        BusUnavailable: no server answered within `wait_s`.
    """
    connection = Connection()
    last_error: Exception | None = None

    async def on_error(error: Exception) -> None:
        nonlocal last_error
        last_error = error
        log.warning("nats: %s", error or type(error).__name__)

    async def on_disconnected() -> None:
        for callback in connection.on_disconnect:
            callback()

    async def on_reconnected() -> None:
        log.info("nats: reconnected")
        for callback in connection.on_reconnect:
            callback()

    try:
        async with asyncio.timeout(wait_s):  # with endless reconnects, nats-py's `connect` does not give up by itself
            await connection.connect(
                servers=[part.strip() for part in url.split(",")],
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # seconds; fractions are fine
                allow_reconnect=True,
                ping_interval=PING_INTERVAL_S,
                error_cb=on_error,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
                skip_subject_validation=True,
                connect_timeout=2,
                pending_size=64 * 1024 * 1024,
            )
    except (TimeoutError, NatsError) as error:
        await connection.close()
        reason = type(last_error or error).__name__
        raise BusUnavailable(f"no NATS server let {name} in within {wait_s:g} s: {reason}") from error
    return connection


__all__ = ["BusRefused", "Connection", "Listener", "MessageTooLarge", "StreamMissing", "connect"]
