"""What the bus may answer instead of an acknowledgement.

BusUnavailable (shared.errors)      no answer in time: whether the server acted is unknown
BusRefused                          the server answered with an error: it did not act
├── WrongLastSequence               the fence: somebody else has written to this subject
├── SubjectTaken                    the subject holds a message already, and may hold one only
├── MessageTooLarge                 it is over what the server takes in one message, so it was not sent
└── StreamMissing                   no stream listens on the subject, or the named one does not exist
"""

from __future__ import annotations

from millrace_shared.errors import TerminalError

_WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
_SUBJECT_TAKEN = 10077
_STREAM_MISSING = 10059


class BusRefused(TerminalError):
    """The server answered with an error, so nothing was stored.

    `code` is JetStream's error code, listed in the server's `errors.json`.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class WrongLastSequence(BusRefused):
    """The subject's last sequence is not the expected one: another writer was first."""


class SubjectTaken(BusRefused):
    """The subject already holds the one message that it may hold."""


class MessageTooLarge(BusRefused):
    """The message is over the server's limit: it was not sent."""


class StreamMissing(BusRefused):
    """There is no such stream."""


def refusal(error: dict[str, object], subject: str) -> BusRefused:
    """Return the exception for the `error` object of a JetStream answer."""
    code = int(str(error.get("err_code", error.get("code", 0))))
    description = str(error.get("description", "no description"))
    text = f"NATS refused the message for {subject}: {description} ({code})"
    if code in _WRONG_LAST_SEQUENCE:
        return WrongLastSequence(text, code)
    if code == _SUBJECT_TAKEN and "per subject" in description:
        return SubjectTaken(text, code)
    if code == _STREAM_MISSING:
        return StreamMissing(text, code)
    return BusRefused(text, code)
