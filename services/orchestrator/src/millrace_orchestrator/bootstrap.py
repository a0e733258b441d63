"""The composition root: what the orchestrator is made of, and in which order it starts and stops."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from millrace_orchestrator.adapters.compaction import Compaction
from millrace_orchestrator.adapters.dispatcher import Dispatcher
from millrace_orchestrator.adapters.gatekeeper import Gatekeeper
from millrace_orchestrator.adapters.inbox import Inbox
from millrace_orchestrator.adapters.journal import Journal
from millrace_orchestrator.adapters.plans import Plans
from millrace_orchestrator.adapters.retention import DAY_S, Retention
from millrace_orchestrator.adapters.snapshots import Snapshots
from millrace_orchestrator.adapters.sweeper import Sweeper
from millrace_orchestrator.adapters.timers import ShortTimers
from millrace_orchestrator.decider import Decider
from millrace_orchestrator.domain.dormancy import Rhythm
from millrace_orchestrator.domain.fairness import Crowds
from millrace_orchestrator.dormitory import Dormitory
from millrace_orchestrator.engine import Engine
from millrace_orchestrator.leases import Leases
from millrace_orchestrator.settings import OrchestratorSettings
from millrace_shared.blobs import Blobs
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.publisher import Publisher
from millrace_shared.bus.streams import ensure_streams
from millrace_shared.errors import BusUnavailable
from millrace_shared.expressions.evaluators import BoundedEvaluator
from millrace_shared.ops import OpsServer
from millrace_shared.service import instance_name

log = logging.getLogger(__name__)


@asynccontextmanager
async def orchestrator(settings: OrchestratorSettings) -> AsyncIterator[Engine]:
    """Run the service: ready when entered, stopped when left."""
    connection = await connect(settings.nats_url.get_secret_value(), instance_name(settings))
    try:
        await ensure_streams(connection, settings.nats_replicas)
        publisher = await Publisher(connection).start()
        plans = Plans(connection, publisher)
        with BoundedEvaluator() as evaluator:
            snapshots = Snapshots(connection)
            journal = Journal(connection, publisher, plans, snapshots)
            crowds, leases = Crowds(), Leases(publisher)
            horizon_s = settings.orchestrator_timer_horizon_s
            decider = Decider(journal, plans, Blobs(settings.blobs), evaluator.evaluate, crowds)
            dormitory = Dormitory(connection, publisher, leases, Rhythm(horizon_s))
            engine = Engine(
                journal, decider, publisher, leases, dormitory, snapshots, crowds, settings.orchestrator_cache_max
            )
            engine.retention_s = settings.log_retention_days * DAY_S
            engine.timers = timers = ShortTimers(engine.timer_fired)
            engine.inbox = Inbox(connection, engine)
            gatekeeper = Gatekeeper(connection, publisher)
            engine.dispatcher = Dispatcher(connection, publisher, timers, gatekeeper, engine.release, horizon_s)
            ops = OpsServer(
                settings.ops_host,
                settings.ops_port,
                {"nats": lambda: _answers(connection), "engine": engine.check},
            )
            sweeper, retention = Sweeper(connection), Retention(connection, settings.log_retention_days)
            compaction = Compaction(connection, publisher, settings.log_compaction_hours)
            engine.start()
            await engine.inbox.start()
            sweeper.start()
            retention.start()
            compaction.start()
            await ops.start()
            log.info("operations on port %d", ops.port)
            try:
                yield engine
            finally:
                await compaction.stop()
                await retention.stop()
                await sweeper.stop()
                await engine.inbox.stop()
                await engine.stop()
                await gatekeeper.stop()
                timers.stop()
                await ops.stop()
    finally:
        await connection.drain()


async def _answers(connection: Connection) -> None:
    if not connection.is_connected:
        raise BusUnavailable("not connected; trying again all the time")
    await connection.jetstream_api("STREAM.INFO.INBOX")
