"""Work that comes a second time: is it over already?

Work is delivered again when its runner died, is queued again by an orchestrator that takes over, and comes back from
the dead when the NATS server is killed: the stream is written lazily, and what was acknowledged last may stand in it
again. Most of it must be performed. But where the runner stored a result and only its acknowledgement was lost,
performing it again would do its effects, and pay its model, twice. So a delivery that may be a repeat is looked up
before it is performed: in the inbox, where its result would be, and in the log, which may have gone on without it.
Ordinary deliveries cost nothing.
"""

from __future__ import annotations

import asyncio
import logging

from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_log, read_subject
from millrace_shared.bus.pull import Delivery
from millrace_shared.codec import decode_fact, decode_inbox, decode_transition
from millrace_shared.errors import MessageInvalid, MillraceError, UpgradeNeeded
from millrace_shared.messages import (
    ExecutionFinished,
    RunStep,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepIterated,
    StepResult,
    StepRetryScheduled,
    StepStarted,
)

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.2
_OVER = (StepCompleted, StepFailed, StepRetryScheduled, StepIterated)


class Repeats:
    """Tells repeats from first deliveries."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._suspect_until: float = float("inf")
        self._asking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Suspect whatever is queued now, and again after every loss of the server."""
        self._connection.on_reconnect.append(self._suspect)
        self._suspect()

    def stop(self) -> None:
        """Suspect nothing more."""
        if self._suspect in self._connection.on_reconnect:
            self._connection.on_reconnect.remove(self._suspect)
        if self._asking is not None:
            self._asking.cancel()

    def may_be(self, delivery: Delivery, step: RunStep) -> bool:
        """Whether a delivery may be a repeat."""
        return step.again or delivery.sequence <= self._suspect_until or delivery.delivered_count > 1

    async def is_over(self, step: RunStep) -> bool:
        """Whether an attempt has its result already, or is wanted no longer.

        Raises:
            BusUnavailable: the server did not answer.
        """
        return await self._has_result(step) or await self._has_moved_on(step)

    async def is_elsewhere(self, step: RunStep, runner: str, since: float) -> bool:
        """Whether an attempt is over, or was begun by another runner after `since` (Unix seconds).

        Raises:
            BusUnavailable: the server did not answer.
        """
        async for stored in read_subject(
            self._connection, "TELEMETRY", subjects.fact(step.execution_id, "step_started")
        ):
            try:
                fact = decode_fact(stored.payload)
            except MessageInvalid:
                continue
            if isinstance(fact, StepStarted) and _key(fact) == _key(step) and fact.runner != runner and fact.at > since:
                return True
        return await self.is_over(step)

    async def _has_result(self, step: RunStep) -> bool:
        async for stored in read_subject(self._connection, "INBOX", subjects.inbox(step.execution_id)):
            try:
                message = decode_inbox(stored.payload)
            except MessageInvalid:
                continue
            if isinstance(message, StepResult) and _key(message) == _key(step):
                return True
        return False

    async def _has_moved_on(self, step: RunStep) -> bool:
        for stored in await read_log(self._connection, step.execution_id):
            try:
                transition = decode_transition(stored.payload)
            except (MessageInvalid, UpgradeNeeded):  # what it says is not known here
                continue
            for event in transition.events:
                if isinstance(event, ExecutionFinished):
                    return True
                if isinstance(event, _OVER) and _key(event) == _key(step):
                    return True
                if isinstance(event, StepCancelled) and (event.step, event.item) == (step.step, step.item):
                    return True
        return False

    def _suspect(self) -> None:
        """Until the server has said how far WORK reaches, every delivery may be a repeat."""
        self._suspect_until = float("inf")
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="repeats")

    async def _ask(self) -> None:
        while True:
            try:
                info = await self._connection.jetstream_api("STREAM.INFO.WORK")
            except MillraceError as error:
                log.debug("WORK is not there yet: %s", error)
                await asyncio.sleep(_LOOK_AGAIN_S)
            else:
                self._suspect_until = int(info["state"]["last_seq"])
                return


def _key(
    one: RunStep | StepStarted | StepResult | StepCompleted | StepFailed | StepRetryScheduled | StepIterated,
) -> tuple[str, int | None, int]:
    return one.step, one.item, one.attempt
