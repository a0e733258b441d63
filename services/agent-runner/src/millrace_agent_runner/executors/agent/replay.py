"""What of a conversation is recorded, and how it is told that a request is the same as before.

A fingerprint is a hash of what the model reads: texts, tool calls and results, in order. Times, ids of runs and the
like differ each time and count for nothing. Secrets that were put into the input are not recorded: in their place
stands which one it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelRequest, ModelResponse

from millrace_agent_runner.domain.secrets import SECRET_CHARS_SCRUBBED_MIN
from millrace_shared.errors import MessageInvalid

_PLACE = "\ue000millrace:secret:{}\ue001"
"""Private characters of Unicode: no text that is meant for people has them."""

_READ = ("tool_name", "tool_call_id", "args", "content", "outcome")
_essence_encoder = msgspec.json.Encoder(order="deterministic", enc_hook=repr)


def fingerprint_of(messages: Sequence[ModelMessage]) -> str:
    """Return a hash of what a model reads."""
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        digest.update(_essence_encoder.encode(_essence(message)))
    return digest.hexdigest()


def key_of_call(tool_call_id: str | None, name: str, arguments: dict[str, Any]) -> str:
    """Return what tells a call of a tool from the others of its turn."""
    return hashlib.blake2b(_essence_encoder.encode([tool_call_id, name, arguments]), digest_size=12).hexdigest()


def dump_response(response: ModelResponse, secrets: tuple[str, ...]) -> bytes:
    """Return an answer as JSON, without secrets."""
    if not secrets:
        return ModelMessagesTypeAdapter.dump_json([response])
    return hide(ModelMessagesTypeAdapter.dump_python([response], mode="json"), secrets)


def load_response(document: bytes, secrets: tuple[str, ...]) -> ModelResponse:
    """Return the answer that `dump_response` was given.

    Raises:
        MessageInvalid: it is none.
    """
    try:
        if secrets:
            document = msgspec.json.encode(show(document, secrets))
        [response] = ModelMessagesTypeAdapter.validate_json(document)
    except ValueError as error:
        raise MessageInvalid(f"the journal holds an answer that is none: {error}") from error
    if not isinstance(response, ModelResponse):
        raise MessageInvalid("the journal holds a request where an answer should be")
    return replace(response, run_id=None, conversation_id=None)


def hide(value: Any, secrets: tuple[str, ...]) -> bytes:
    """Return a JSON value as bytes, with places in place of secrets."""
    return msgspec.json.encode(_replaced(value, _pairs(secrets)))


def show(document: bytes, secrets: tuple[str, ...]) -> Any:
    """Return the value that `hide` was given."""
    value = msgspec.json.decode(document)
    return _replaced(value, [(place, secret) for secret, place in _pairs(secrets)]) if secrets else value


def _essence(message: ModelMessage) -> list[Any]:
    said: list[Any] = [message.kind]
    if isinstance(message, ModelRequest):
        said.append(message.instructions)
    said.extend([part.part_kind, *(getattr(part, name, None) for name in _READ)] for part in message.parts)
    return said


def _pairs(secrets: tuple[str, ...]) -> list[tuple[str, str]]:
    numbered = [(secret, _PLACE.format(number)) for number, secret in enumerate(secrets)]
    known = [(secret, place) for secret, place in numbered if len(secret) >= SECRET_CHARS_SCRUBBED_MIN]
    return sorted(known, key=lambda pair: len(pair[0]), reverse=True)


def _replaced(value: Any, pairs: list[tuple[str, str]]) -> Any:
    if isinstance(value, str):
        for old, new in pairs:
            value = value.replace(old, new)
        return value
    if isinstance(value, dict):
        return {_replaced(key, pairs): _replaced(item, pairs) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, pairs) for item in value]
    return value
