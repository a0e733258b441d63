"""Results that are used again: the CACHE stream, one message for each key, until its time is up.

The orchestrator computes the key, over the workspace, the definition of the step, and what it is given; here it is
opaque. A cache that does not answer has nothing, and one that does not take a result does without: neither is ever an
error of the step, nor something to wait for. Two runners that perform the same key at once both perform it, and the
later result stays.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time

import msgspec

from millrace_agent_runner import metrics
from millrace_shared import subjects
from millrace_shared.bus import headers
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.errors import MessageTooLarge
from millrace_shared.bus.log_reader import read_last
from millrace_shared.codec import encode
from millrace_shared.errors import MillraceError
from millrace_shared.messages import RunStep
from millrace_shared.values import Payload

log = logging.getLogger(__name__)

ANSWER_S_MAX = 1.0


class _Kept(msgspec.Struct, frozen=True):
    """A result and when it was stored, in Unix seconds."""

    at: float
    output: Payload


_decoder = msgspec.json.Decoder(_Kept)


class ResultCache:
    """The results of steps that are cached."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def find(self, step: RunStep) -> Payload | None:
        """Return the output that is kept under the step's key and young enough for it, or None."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                stored = await read_last(self._connection, "CACHE", subjects.cache(step.workspace, step.cache))
            kept = None if stored is None else _decoder.decode(stored.payload)
        except (TimeoutError, MillraceError, msgspec.DecodeError) as error:
            log.warning("the result cache is of no use now: %s", error or type(error).__name__)
            metrics.cache.labels("unavailable").inc()
            return None
        if kept is None or time.time() - kept.at > step.cache_ttl_s:  # another version of the step may keep it longer
            metrics.cache.labels("miss").inc()
            return None
        metrics.cache.labels("hit").inc()
        return kept.output

    def keep(self, step: RunStep, output: Payload) -> None:
        """Keep an output, in place of an older one. Returns at once; whether it arrives makes no difference."""
        if step.cache_ttl_s < 1 or not self._connection.is_connected:  # the server knows no shorter lives
            return
        block = headers.build({"Nats-TTL": f"{math.ceil(step.cache_ttl_s)}s"})
        try:
            self._connection.send(
                subjects.cache(step.workspace, step.cache), encode(_Kept(time.time(), output)), headers=block
            )
        except MessageTooLarge as error:
            log.warning("a result is not kept: %s", error)
            return
        metrics.cache.labels("stored").inc()
