"""Builds the projected tables anew from the log.

The tables are emptied and the offsets set to the beginning in one transaction. A running telemetry service loses its
fence by that, reads the offset again, and replays; when none runs, this process replays. So it is safe at any time:
until it is through, lists show what is projected so far, and single executions are answered from their logs.

Executions that have ended and whose logs have expired keep their rows: nothing else knows of them any more. All others
get back the numbers that they had: the order of the stream does not tell them, since a compacted log stands where it
was compacted.
"""

from __future__ import annotations

import asyncio
import logging
import time

from millrace_shared import subjects
from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import holds_any, read_last, read_last_of_each
from millrace_telemetry.adapters.store import Store
from millrace_telemetry.bootstrap import open_bus, prepare_schema, projecting
from millrace_telemetry.errors import WriteFailed
from millrace_telemetry.projector import PROJECTIONS, Projection
from millrace_telemetry.settings import TelemetrySettings

log = logging.getLogger(__name__)

POLL_S = 0.1
ENDED_PAGE = 256
"""Executions whose logs are looked for at once."""
STALLED_S = 60.0
"""Without any progress for this long the rebuild is given up; starting it again is safe."""


async def rebuild(settings: TelemetrySettings) -> dict[str, int]:
    """Empty the tables but for what has no log, and replay the log.

    It returns once everything is projected that was stored when it began.

    Returns:
        The sequence up to which each stream is projected.

    Raises:
        WriteFailed: there was no progress for `STALLED_S`.
        BusRefused: NATS cannot tell which logs there are.
        BusUnavailable, DatabaseUnavailable: a server did not answer in time.
    """
    await prepare_schema(settings)
    async with open_bus(settings) as bus:
        url = settings.database_url.get_secret_value()
        targets = {projection.stream: await _last_sequence(bus, projection) for projection in PROJECTIONS}
        stores = [await Store.open(url, stream) for stream in targets]
        try:
            await _keep_expired(stores[0], bus)
            kept = await stores[0].reset()
            log.info("the tables are empty, but for %d executions without a log; replaying up to %s", kept, targets)
            async with projecting(settings, bus):
                for store, target in zip(stores, targets.values(), strict=True):
                    await _reach(store, target)
            return {stream: (await store.offset()).sequence for stream, store in zip(targets, stores, strict=True)}
        finally:
            for store in stores:
                await store.close()


async def _keep_expired(store: Store, bus: Connection) -> None:
    """Keep the rows of what has ended and has no log: the end is read first, so there was a log, and it is gone."""
    after = ""
    while ended := await store.ended(after, ENDED_PAGE):
        stored = await read_last_of_each(bus, "EVENTS", [subjects.log(execution_id) for execution_id in ended])
        readable = {subjects.execution_id_of(one.subject) for one in stored}
        missing = [execution_id for execution_id in ended if execution_id not in readable]
        found = await asyncio.gather(*(holds_any(bus, "EVENTS", subjects.log(one)) for one in missing))
        await store.keep([one for one, is_there in zip(missing, found, strict=True) if not is_there])
        after = ended[-1]


async def _last_sequence(bus: Connection, projection: Projection) -> int:
    found = [await read_last(bus, projection.stream, subject) for subject in projection.filters or (">",)]
    return max((stored.sequence for stored in found if stored is not None), default=0)


async def _reach(store: Store, target: int) -> None:
    """Wait until the stream is projected up to `target`, by whichever process does it."""
    sequence, moved_at = -1, time.monotonic()
    while sequence < target:
        current = (await store.offset()).sequence
        if current != sequence:
            sequence, moved_at = current, time.monotonic()
        elif time.monotonic() - moved_at > STALLED_S:
            raise WriteFailed(f"no progress for {STALLED_S:g} s at {sequence} of {target}: look at the log above")
        if sequence < target:
            await asyncio.sleep(POLL_S)
