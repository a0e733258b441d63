"""Keeping transitions small: values that are too large for a message become blobs before the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from millrace_shared.blobs import INLINE_BYTES_MAX, Blobs
from millrace_shared.bus.streams import MESSAGE_BYTES_MAX
from millrace_shared.codec import encode
from millrace_shared.errors import ValueTooLarge
from millrace_shared.messages import (
    LOG_VERSION,
    Event,
    ExecutionFinished,
    ExecutionStarted,
    SignalReceived,
    StepCompleted,
    StepIterated,
    StepReused,
    StepScheduled,
    StepWaiting,
    Transition,
)
from millrace_shared.values import Payload

TRANSITION_BYTES_MAX = MESSAGE_BYTES_MAX - 64 * 1024
"""Room is left for headers."""
_THRESHOLDS = (INLINE_BYTES_MAX, 4 * 1024, 512, 64)
"""When a transition of many values is too large as a whole, smaller and smaller ones become blobs, too."""
PUTS_AT_ONCE = 64
"""A list of 10,000 items may be 10,000 blobs, and everybody else's decisions wait for them."""

_VALUES: dict[type, tuple[str, ...]] = {
    StepScheduled: ("input", "reuse"),
    StepWaiting: ("input",),
    StepIterated: ("output",),
    StepReused: ("output",),
    StepCompleted: ("output",),
    SignalReceived: ("data",),
    ExecutionFinished: ("output",),
}
"""Where events hold values."""


async def fit(blobs: Blobs, workspace: str, transition: Transition) -> tuple[Transition, bytes]:
    """Return a transition whose values fit, and its bytes. The same one when nothing had to be moved.

    Raises:
        BlobUnavailable: the blob store did not take a value.
        ValueTooLarge: a value is over the limit of a blob, or there are too many events for a message.
    """
    payload = encode(transition)
    for threshold in _THRESHOLDS:
        if len(payload) <= threshold or (len(payload) <= TRANSITION_BYTES_MAX and threshold < INLINE_BYTES_MAX):
            break
        events = await _shrunk(blobs, workspace, transition.events, threshold)
        transition = Transition(LOG_VERSION, transition.execution_id, transition.version, transition.at, events)
        payload = encode(transition)
    if len(payload) > TRANSITION_BYTES_MAX:
        count = len(transition.events)
        raise ValueTooLarge(f"{count} events at once are {len(payload)} bytes; the limit is {TRANSITION_BYTES_MAX}")
    return transition, payload


async def _shrunk(blobs: Blobs, workspace: str, events: Sequence[Event], threshold: int) -> tuple[Event, ...]:
    shrunk: list[Event] = []
    for first in range(0, len(events), PUTS_AT_ONCE):
        some = events[first : first + PUTS_AT_ONCE]
        shrunk += await asyncio.gather(*(_smaller(blobs, workspace, event, threshold) for event in some))
    return tuple(shrunk)


async def _smaller(blobs: Blobs, workspace: str, event: Event, threshold: int) -> Event:
    if isinstance(event, ExecutionStarted):
        small = await blobs.shrink(workspace, event.request.input, threshold)
        return replace(event, request=replace(event.request, input=small))
    changed: dict[str, Payload] = {}
    for name in _VALUES.get(type(event), ()):
        value = getattr(event, name)
        small = await blobs.shrink(workspace, value, threshold)
        if small is not value:
            changed[name] = small
    return replace(event, **changed) if changed else event
