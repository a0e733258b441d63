"""Reading stored messages by subject, without a consumer: JetStream's batched direct get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.headers import status_of, value_of
from millrace_shared.errors import BusUnavailable

PAGE_MESSAGES = 512
PAGE_BYTES = 4 * 1024 * 1024
READ_TIMEOUT_S = 5.0
NO_MESSAGE = 10037
"""JetStream's error code for a message that is not in the stream."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored message."""

    subject: str
    sequence: int
    payload: bytes


async def read_log(connection: Connection, execution_id: str) -> list[Stored]:
    """Return an execution's log in order; empty when it has none yet.

    Raises:
        BusUnavailable: the server did not answer.
    """
    return [stored async for stored in read_subject(connection, "EVENTS", subjects.log(execution_id))]


async def read_last(connection: Connection, stream: str, subject: str) -> Stored | None:
    """Return the last message of one exact subject, or None.

    Raises:
        BusUnavailable: the server did not answer.
    """
    page = await _page(connection, stream, {"last_by_subj": subject})
    return page[0] if page else None


async def read_next(connection: Connection, stream: str, subject: str, start_sequence: int) -> Stored | None:
    """Return the first message of `subject`, which may hold wildcards, from `start_sequence` on, or None.

    Raises:
        BusUnavailable: the server did not answer.
    """
    page = await _page(connection, stream, {"seq": start_sequence, "next_by_subj": subject})
    return page[0] if page else None


async def read_last_of_each(connection: Connection, stream: str, subjects_: Sequence[str]) -> list[Stored]:
    """Return the last message of each exact subject that holds any, in stream order.

    Raises:
        BusUnavailable: the server did not answer.
    """
    found: list[Stored] = []
    for start in range(0, len(subjects_), PAGE_MESSAGES):
        page = list(subjects_[start : start + PAGE_MESSAGES])
        found += await _page(connection, stream, {"multi_last": page, "batch": len(page)})
    return found


async def holds_any(connection: Connection, stream: str, subject: str) -> bool:
    """Tell whether a stream holds a message of one exact subject.

    The stream's leader answers. Reads are answered by any replica, and one that lags does not find what is there: not
    to find something means that it is gone only here.

    Raises:
        BusUnavailable: the server did not answer.
        BusRefused: it cannot tell.
    """
    try:
        await connection.jetstream_api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    except BusRefused as error:
        if error.code == NO_MESSAGE:
            return False
        raise
    return True


async def read_page(connection: Connection, stream: str, subject: str, start_sequence: int, count: int) -> list[Stored]:
    """Return the first `count` messages of `subject`, which may hold wildcards, from `start_sequence` on, in order.

    There may be more of them although fewer are returned, when they are large; an empty list says that there are none.

    Raises:
        BusUnavailable: the server did not answer.
    """
    request = {"seq": start_sequence, "next_by_subj": subject, "batch": count, "max_bytes": PAGE_BYTES}
    return await _page(connection, stream, request)


async def read_subject(
    connection: Connection, stream: str, subject: str, start_sequence: int = 1
) -> AsyncIterator[Stored]:
    """Yield the stored messages of `subject`, which may hold wildcards, in stream order from `start_sequence`.

    Raises:
        BusUnavailable: the server did not answer.
    """
    while True:
        page = await read_page(connection, stream, subject, start_sequence, PAGE_MESSAGES)
        for stored in page:
            yield stored
        if not page:
            return
        start_sequence = page[-1].sequence + 1


async def _page(connection: Connection, stream: str, request: dict[str, object]) -> list[Stored]:
    page: list[Stored] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    single = "batch" not in request

    def collect(_subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
        if done.done():
            return
        status, description = status_of(headers)
        if status in {"204", "404"}:  # end of batch, or nothing there
            done.set_result(None)
        elif status:
            done.set_exception(BusUnavailable(f"stream {stream} cannot be read: {status} {description}"))
        else:
            sequence = int(value_of(headers, "Nats-Sequence") or 0)
            page.append(Stored(value_of(headers, "Nats-Subject") or "", sequence, payload))
            if single:
                done.set_result(None)

    inbox = connection.new_inbox()
    subscription = await connection.listen(inbox, collect)
    try:
        connection.send(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(request), inbox)
        async with asyncio.timeout(READ_TIMEOUT_S):
            await done
    except TimeoutError as error:
        raise BusUnavailable(f"stream {stream} did not answer a read within {READ_TIMEOUT_S:g} s") from error
    finally:
        await connection.unlisten(subscription)
    return page
