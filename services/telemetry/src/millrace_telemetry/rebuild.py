"""Builds the projected tables anew from the log.

The tables are emptied and the offsets set to the beginning in one transaction. A running telemetry service loses its
fence by that, reads the offset again, and replays; when none runs, this process replays. So it is safe at any time:
until it is through, lists show what is projected so far, and single executions are answered from their logs.
"""

from __future__ import annotations

import asyncio
import logging
import time

from millrace_shared.bus.connection import Connection
from millrace_shared.bus.log_reader import read_last
from millrace_telemetry.adapters.store import Store
from millrace_telemetry.bootstrap import open_bus, prepare_schema, projecting
from millrace_telemetry.errors import WriteFailed
from millrace_telemetry.projector import PROJECTIONS, Projection
from millrace_telemetry.settings import TelemetrySettings

log = logging.getLogger(__name__)

POLL_S = 0.1
STALLED_S = 60.0
"""Without any progress for this long the rebuild is given up; starting it again is safe."""


async def rebuild(settings: TelemetrySettings) -> dict[str, int]:
    """Empty the tables, replay the log, and return once everything is projected that was stored when it began.

    Returns:
        The sequence up to which each stream is projected.

    Raises:
        WriteFailed: there was no progress for `STALLED_S`.
        BusUnavailable, DatabaseUnavailable: a server did not answer in time.
    """
    await prepare_schema(settings)
    async with open_bus(settings) as bus:
        url = settings.database_url.get_secret_value()
        targets = {projection.stream: await _last_sequence(bus, projection) for projection in PROJECTIONS}
        stores = [await Store.open(url, stream) for stream in targets]
        try:
            await stores[0].reset()
            log.info("the tables are empty; replaying up to %s", targets)
            async with projecting(settings, bus):
                for store, target in zip(stores, targets.values(), strict=True):
                    await _reach(store, target)
            return {stream: (await store.offset()).sequence for stream, store in zip(targets, stores, strict=True)}
        finally:
            for store in stores:
                await store.close()


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
