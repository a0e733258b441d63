"""Encoding and decoding of bus messages: one encoder, one decoder per kind of message."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from millrace_shared.errors import MessageInvalid
from millrace_shared.messages import LOG_VERSION, Fact, InboxMessage, RunStep, StartRequest, Transition
from millrace_shared.upcast import upcast

T = TypeVar("T")

_encoder = msgspec.json.Encoder()
_inbox: msgspec.json.Decoder[InboxMessage] = msgspec.json.Decoder(InboxMessage)
_request = msgspec.json.Decoder(StartRequest)
_transition = msgspec.json.Decoder(Transition)
_work = msgspec.json.Decoder(RunStep)
_fact: msgspec.json.Decoder[Fact] = msgspec.json.Decoder(Fact)
_CURRENT_PREFIX = b'{"v":%d,' % LOG_VERSION

encode = _encoder.encode


def decode_inbox(data: bytes) -> InboxMessage:
    """Decode an inbox message. Raises `MessageInvalid`."""
    return _decode(_inbox, data)


def decode_request(data: bytes) -> StartRequest:
    """Decode a stored request. Raises `MessageInvalid`."""
    return _decode(_request, data)


def decode_work(data: bytes) -> RunStep:
    """Decode a work message. Raises `MessageInvalid`."""
    return _decode(_work, data)


def decode_fact(data: bytes) -> Fact:
    """Decode a telemetry fact. Raises `MessageInvalid`."""
    return _decode(_fact, data)


def decode_transition(data: bytes) -> Transition:
    """Decode a log message of any version that was ever written. Raises `MessageInvalid` or `UpgradeNeeded`."""
    if data.startswith(_CURRENT_PREFIX):
        return _decode(_transition, data)
    try:
        return msgspec.convert(upcast(msgspec.json.decode(data)), Transition)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageInvalid(str(error)) from error


def _decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageInvalid(str(error)) from error
