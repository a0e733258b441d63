"""Turns messages of the stream into what is to be projected: a compacted log into what is new of its transitions.

As a rule none is: the tables hold an execution to its end long before its log is compacted. They do not after an
outage that was longer than that, or when they are being rebuilt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from millrace_shared.bus.compacted import expand, heading_of, is_compacted
from millrace_shared.codec import decode_transition
from millrace_shared.errors import MessageInvalid
from millrace_shared.subjects import execution_id_of
from millrace_telemetry.adapters.follower import Message
from millrace_telemetry.adapters.store import Offset


@dataclass(frozen=True, slots=True)
class Item:
    """One message to project, and the offset that holds once it and all before it are written.

    What is unfolded from a compacted log leaves the offset where it was, since the tables themselves tell how much of
    it they hold. The end of such a log has no message, and moves the offset past it.
    """

    message: Message | None
    offset: Offset

    @property
    def was_unfolded(self) -> bool:
        """Whether the message comes out of a compacted log."""
        return self.message is not None and self.message.sequence != self.offset.sequence


def compacted_of(messages: Sequence[Message]) -> list[str]:
    """Return the executions whose compacted logs are among `messages`."""
    return [execution_id_of(one.subject) for one in messages if is_compacted(one.payload)]


def unfold(messages: Sequence[Message], before: Offset, known: Mapping[str, int]) -> Iterator[Item]:
    """Yield what is to be projected of `messages`, in order.

    Args:
        messages: as the stream delivered them.
        before: the offset before the first of them.
        known: for each of `compacted_of(messages)` the last version that the tables hold, if they hold any.
    """
    compacted, versions = set(compacted_of(messages)), dict(known)
    for message in messages:
        offset = Offset(message.sequence, message.subject)
        if compacted and (execution_id := execution_id_of(message.subject)) in compacted:
            if is_compacted(message.payload):
                new = _new_in(message, versions.get(execution_id, 0))
                if new is not None:
                    yield from (Item(one, before) for one in new)
                    yield Item(None, offset)
                    before = offset
                    continue
            else:
                versions[execution_id] = max(versions.get(execution_id, 0), _version_of(message))
        yield Item(message, offset)
        before = offset


def _new_in(message: Message, version: int) -> list[Message] | None:
    """Return the transitions beyond `version`, as they were stored; None if the log cannot be unpacked."""
    try:
        if heading_of(message.payload).count <= version:
            return []
        entries = expand(message.payload)
    except MessageInvalid:  # what projects it says so
        return None
    return [Message(one.sequence, message.subject, one.payload) for one in entries[version:]]  # versions count from 1


def _version_of(message: Message) -> int:
    try:
        return decode_transition(message.payload).version
    except MessageInvalid:
        return 0
