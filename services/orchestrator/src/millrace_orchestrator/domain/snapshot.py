"""Snapshots: the state of a long execution as bytes, so that folding its log anew does not begin at its beginning.

A snapshot is never the truth. It is made of a state that is in the log, and it is thrown away when there is any doubt:
made by another version of the code, of another definition, or of a log that does not hold its last transition.
"""

from __future__ import annotations

import hashlib
from typing import Any, get_args, get_origin, get_type_hints

import immutables
import msgspec

from millrace_orchestrator.domain.state import ExecutionState, Pause, StepState, Work
from millrace_shared.messages import LOG_VERSION

_CODEC_VERSION = 1


class Snapshot(msgspec.Struct, frozen=True):
    """The state after a transition.

    Attributes:
        format: what a state consists of, as a fingerprint: another version of the code may know more, or less.
        sequence: stream sequence of the transition.
        at: when it was decided, in Unix seconds.
        state: the state after it; its `version` is the transition's.
    """

    format: str
    sequence: int
    at: float
    state: ExecutionState


def _fingerprint() -> str:
    fields = [
        f"{kind.__name__}.{name}: {annotation}"
        for kind in (ExecutionState, StepState, Work, Pause)
        for name, annotation in get_type_hints(kind).items()
    ]
    return hashlib.sha256("\n".join([str(_CODEC_VERSION), str(LOG_VERSION), *fields]).encode()).hexdigest()[:16]


FORMAT = _fingerprint()


def _to_builtin(value: Any) -> Any:
    if isinstance(value, immutables.Map):
        return dict(value.items())
    raise NotImplementedError(f"a state holds a {type(value).__name__}, which has no form in a snapshot")


def _from_builtin(kind: Any, value: Any) -> Any:
    if get_origin(kind) is not immutables.Map:
        raise NotImplementedError(f"a snapshot cannot hold a {kind}")
    keys, values = get_args(kind)
    as_dict = dict.__class_getitem__((keys, values))  # a type that is made here, which `dict[...]` is not to mypy
    return immutables.Map(msgspec.convert(value, as_dict, str_keys=True, dec_hook=_from_builtin))


# JSON, as in the log: a value that was in a snapshot is the one that folding the log would have given.
_encoder = msgspec.json.Encoder(enc_hook=_to_builtin)
_decoder = msgspec.json.Decoder(Snapshot, dec_hook=_from_builtin)


def encode_snapshot(state: ExecutionState, sequence: int, at: float) -> bytes:
    """Return the snapshot of the state after the transition at `sequence`, decided `at` (Unix seconds)."""
    return _encoder.encode(Snapshot(FORMAT, sequence, at, state))


def decode_snapshot(data: bytes) -> Snapshot | None:
    """Return a snapshot; None when it cannot be read, or was made by another version of the code."""
    try:
        snapshot = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, NotImplementedError):
        return None
    return snapshot if snapshot.format == FORMAT else None
