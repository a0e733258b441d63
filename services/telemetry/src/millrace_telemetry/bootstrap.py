"""The composition root: what the service is made of, and the order in which it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from millrace_shared import postgres
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.publisher import Publisher
from millrace_shared.bus.streams import ensure_streams
from millrace_shared.errors import BusUnavailable
from millrace_shared.ops import OpsServer
from millrace_telemetry.adapters import sql
from millrace_telemetry.adapters.follower import Follower
from millrace_telemetry.adapters.graveyard import SERVICE, Graveyard
from millrace_telemetry.adapters.store import Store
from millrace_telemetry.metrics import StreamMetrics
from millrace_telemetry.projector import PROJECTIONS, Projection, Projector
from millrace_telemetry.settings import TelemetrySettings

PACKAGE = "millrace_telemetry"
BUFFER_BATCHES = 2
"""Batches that may wait in memory for each stream: one is gathered while another is written."""


@asynccontextmanager
async def serve(settings: TelemetrySettings) -> AsyncIterator[OpsServer]:
    """Run the service: ready when entered, stopped when left.

    Raises:
        BusUnavailable, DatabaseUnavailable: a server did not answer in time.
        MigrationRefused: the schema cannot be brought up to date.
    """
    await prepare_schema(settings)
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(open_bus(settings))
        projectors = await stack.enter_async_context(projecting(settings, bus))

        async def check_nats() -> None:
            if not bus.is_connected:
                raise BusUnavailable("there is no connection to NATS")

        async def check_postgres() -> None:
            for projector in projectors:
                await projector.check()

        ops = OpsServer(settings.ops_host, settings.ops_port, {"nats": check_nats, "postgres": check_postgres})
        await ops.start()
        stack.push_async_callback(ops.stop)
        yield ops


async def prepare_schema(settings: TelemetrySettings) -> list[str]:
    """Create or migrate the telemetry schema. Returns the migrations that were applied.

    Raises:
        DatabaseUnavailable: no server answered in time.
        MigrationRefused: the schema cannot be brought up to date.
    """
    url = settings.database_url.get_secret_value()
    connection = await postgres.connect(url, application_name="millrace-telemetry migrations")
    try:
        return await postgres.migrate(connection, sql.SCHEMA, PACKAGE)
    finally:
        await connection.close()


@asynccontextmanager
async def open_bus(settings: TelemetrySettings) -> AsyncIterator[Connection]:
    """Connect to NATS, with every stream in place."""
    bus = await connect(settings.nats_url.get_secret_value(), SERVICE)
    try:
        await ensure_streams(bus, settings.nats_replicas)
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def projecting(settings: TelemetrySettings, bus: Connection) -> AsyncIterator[list[Projector]]:
    """Project every stream until left. What is being written then is dropped, and projected by whoever is next."""
    publisher = await Publisher(bus).start()
    projectors = [_projector(settings, bus, publisher, projection) for projection in PROJECTIONS]
    tasks = [asyncio.create_task(projector.run(), name="projector") for projector in projectors]
    try:
        yield projectors
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _projector(settings: TelemetrySettings, bus: Connection, publisher: Publisher, projection: Projection) -> Projector:
    metrics = StreamMetrics(projection.stream)
    return Projector(
        projection,
        functools.partial(Store.open, settings.database_url.get_secret_value(), projection.stream),
        functools.partial(
            Follower,
            bus,
            projection.stream,
            projection.filters,
            capacity=BUFFER_BATCHES * settings.telemetry_batch_max,
            metrics=metrics,
        ),
        Graveyard(bus, publisher, projection.stream),
        metrics,
        batch_max=settings.telemetry_batch_max,
    )
