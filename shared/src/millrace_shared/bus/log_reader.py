"""Reading stored messages by subject, without a consumer: JetStream's batched direct get.

Whoever reads logs does so by the functions that are named for them: a log may be compacted (`compacted.py`), and they
give its transitions all the same, each once, in order, with the stream sequence that it always had. Nobody else reads
EVENTS but who walks, compacts or projects the whole stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from millrace_shared import subjects
from millrace_shared.bus.compacted import expand, heading_of, is_compacted
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import BusRefused
from millrace_shared.bus.headers import status_of, value_of
from millrace_shared.errors import BusUnavailable, MessageInvalid

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


async def transitions_of(connection: Connection, execution_id: str, start_sequence: int = 1) -> AsyncIterator[Stored]:
    """Yield the transitions of an execution's log in order, from `start_sequence` on, page by page.

    While a log is being compacted it holds both forms, and any part of the first may be gone already. So a compacted
    log, which is the last message of its subject, is looked for before anything else is believed. One that cannot be
    unpacked is yielded as it is stored: decoding it says that it is no transition.

    Raises:
        BusUnavailable: the server did not answer.
    """
    subject, read = subjects.log(execution_id), start_sequence - 1
    page, pending = await _batch(connection, "EVENTS", _request(subject, start_sequence, PAGE_MESSAGES))
    if page and is_compacted(page[-1].payload):
        page = page[-1:]
    elif pending:
        last = await read_last(connection, "EVENTS", subject)
        if last is not None and is_compacted(last.payload):
            page, pending = [last], 0
    while page:
        next_sequence = page[-1].sequence + 1
        for stored in page:
            for transition in unfold(stored, read):
                read = transition.sequence
                yield transition
        if not pending:
            return
        page, pending = await _batch(connection, "EVENTS", _request(subject, next_sequence, PAGE_MESSAGES))


async def read_log(connection: Connection, execution_id: str) -> list[Stored]:
    """Return an execution's log in order; empty when it has none yet.

    Raises:
        BusUnavailable: the server did not answer.
    """
    return [stored async for stored in transitions_of(connection, execution_id)]


async def read_first_of_log(connection: Connection, execution_id: str) -> Stored | None:
    """Return the first transition of an execution's log, or None when it has no log.

    Raises:
        BusUnavailable: the server did not answer.
    """
    first = await read_next(connection, "EVENTS", subjects.log(execution_id), 1)
    if first is None or is_compacted(first.payload):
        return None if first is None else unfold(first)[0]
    last = await read_last(connection, "EVENTS", first.subject)
    return unfold(last)[0] if last is not None and is_compacted(last.payload) else first


async def read_last_of_log(connection: Connection, execution_id: str) -> Stored | None:
    """Return the last transition of an execution's log, or None when it has no log.

    Raises:
        BusUnavailable: the server did not answer.
    """
    stored = await read_last(connection, "EVENTS", subjects.log(execution_id))
    return None if stored is None else unfold(stored)[-1]


async def read_last_of_logs(connection: Connection, execution_ids: Iterable[str]) -> list[Stored]:
    """Return the last transition of each log that there is.

    Raises:
        BusUnavailable: the server did not answer.
    """
    found = await read_last_of_each(connection, "EVENTS", [subjects.log(one) for one in execution_ids])
    return [unfold(stored)[-1] for stored in found]


def unfold(stored: Stored, after: int = 0) -> list[Stored]:
    """Return the transitions of a message of EVENTS whose own sequence is beyond `after`.

    A compacted log that cannot be unpacked is returned as it is.
    """
    if not is_compacted(stored.payload):
        return [stored] if stored.sequence > after else []
    try:
        if heading_of(stored.payload).last <= after:
            return []
        entries = expand(stored.payload)
    except MessageInvalid:
        return [stored]
    return [Stored(stored.subject, one.sequence, one.payload) for one in entries if one.sequence > after]


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
    return await _page(connection, stream, _request(subject, start_sequence, count))


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


def _request(subject: str, start_sequence: int, count: int) -> dict[str, object]:
    return {"seq": start_sequence, "next_by_subj": subject, "batch": count, "max_bytes": PAGE_BYTES}


async def _page(connection: Connection, stream: str, request: dict[str, object]) -> list[Stored]:
    return (await _batch(connection, stream, request))[0]


async def _batch(connection: Connection, stream: str, request: dict[str, object]) -> tuple[list[Stored], int]:
    """Return what the server answers to `request`, and how many messages it says are left beyond that."""
    page: list[Stored] = []
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    single = "batch" not in request

    def collect(_subject: str, _reply: str, headers: bytes, payload: bytes) -> None:
        if done.done():
            return
        status, description = status_of(headers)
        if status in {"204", "404"}:  # end of batch, or nothing there
            done.set_result(int(value_of(headers, "Nats-Num-Pending") or 0))
        elif status:
            done.set_exception(BusUnavailable(f"stream {stream} cannot be read: {status} {description}"))
        else:
            sequence = int(value_of(headers, "Nats-Sequence") or 0)
            page.append(Stored(value_of(headers, "Nats-Subject") or "", sequence, payload))
            if single:
                done.set_result(0)

    inbox = connection.new_inbox()
    subscription = await connection.listen(inbox, collect)
    try:
        connection.send(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(request), inbox)
        async with asyncio.timeout(READ_TIMEOUT_S):
            pending = await done
    except TimeoutError as error:
        raise BusUnavailable(f"stream {stream} did not answer a read within {READ_TIMEOUT_S:g} s") from error
    finally:
        await connection.unlisten(subscription)
    return page, pending
