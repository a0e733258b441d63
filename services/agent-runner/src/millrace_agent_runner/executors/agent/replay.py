"""What of a conversation is recorded, and how it is told that a request is the same as before.

A fingerprint is a hash of what the model reads: texts, tool calls and results, in order. Times, ids of runs and the
like differ each time and count for nothing. Secrets that were put into the input are not recorded: in their place
stands which one it is. So a secret that has changed meanwhile makes no difference, and nothing that a text from outside
says can be taken for such a place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelRequest, ModelResponse

from millrace_agent_runner.domain.secrets import SECRET_CHARS_SCRUBBED_MIN
from millrace_shared.errors import MessageInvalid

_OPEN, _CLOSE = "\ue000", "\ue001"
"""What stands in place of a secret is between these. They may be in any text, so the first of them is replaced, too."""
_PLACE = re.compile(f"{_OPEN}([0-9]*){_CLOSE}")

_READ = ("tool_name", "tool_call_id", "args", "content", "outcome")
_essence_encoder = msgspec.json.Encoder(order="deterministic", enc_hook=repr)


def fingerprint_of(messages: Sequence[ModelMessage], secrets: tuple[str, ...] = ()) -> str:
    """Return a hash of what a model reads, whatever the values of the secrets are."""
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        digest.update(_without(_essence_encoder.encode(_essence(message)), secrets))
    return digest.hexdigest()


def key_of_call(tool_call_id: str | None, name: str, arguments: dict[str, Any], secrets: tuple[str, ...] = ()) -> str:
    """Return what tells a call of a tool from the others of its turn."""
    document = _without(_essence_encoder.encode([tool_call_id, name, arguments]), secrets)
    return hashlib.blake2b(document, digest_size=12).hexdigest()


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
    return msgspec.json.encode(_mapped(value, _hiding(secrets)) if secrets else value)


def show(document: bytes, secrets: tuple[str, ...]) -> Any:
    """Return the value that `hide` was given; where a secret has changed, with its new value."""
    value = msgspec.json.decode(document)
    return _mapped(value, _showing(secrets)) if secrets else value


def _essence(message: ModelMessage) -> list[Any]:
    said: list[Any] = [message.kind]
    if isinstance(message, ModelRequest):
        said.append(message.instructions)
    said.extend([part.part_kind, *(getattr(part, name, None) for name in _READ)] for part in message.parts)
    return said


def _without(document: bytes, secrets: tuple[str, ...]) -> bytes:
    return hide(msgspec.json.decode(document), secrets) if secrets else document


def _hiding(secrets: tuple[str, ...]) -> Callable[[str], str]:
    """Return what replaces secrets, and every character that could begin a place, in one pass over a text."""
    numbers = {secret: number for number, secret in enumerate(secrets) if len(secret) >= SECRET_CHARS_SCRUBBED_MIN}
    found = re.compile("|".join(map(re.escape, [*sorted(numbers, key=len, reverse=True), _OPEN])))
    return lambda text: found.sub(lambda match: f"{_OPEN}{numbers.get(match[0], '')}{_CLOSE}", text)


def _showing(secrets: tuple[str, ...]) -> Callable[[str], str]:
    return lambda text: _PLACE.sub(lambda match: secrets[int(match[1])] if match[1] else _OPEN, text)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value
