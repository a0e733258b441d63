"""The composition root: everything the process consists of is made, started and stopped here, and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from millrace_api.adapters.acceptance import Acceptance
from millrace_api.adapters.agent_store import AgentStore
from millrace_api.adapters.binding import Binding
from millrace_api.adapters.budgets import Budgets
from millrace_api.adapters.bulk import Bulk
from millrace_api.adapters.catalogue import Catalogue
from millrace_api.adapters.dead_letters import DeadLetters
from millrace_api.adapters.definitions import Definitions
from millrace_api.adapters.derivation import Derivation
from millrace_api.adapters.drafting import Drafting
from millrace_api.adapters.event_log import EventLog
from millrace_api.adapters.execution_watch import ExecutionWatch
from millrace_api.adapters.executions import Executions
from millrace_api.adapters.explainer import Explainer
from millrace_api.adapters.histories import Histories
from millrace_api.adapters.invocation import Invocations
from millrace_api.adapters.places import Places
from millrace_api.adapters.projection_reader import ProjectionReader
from millrace_api.adapters.rate_limits import RateLimits
from millrace_api.adapters.steering import Steering
from millrace_api.adapters.trigger_events import TriggerEvents
from millrace_api.adapters.trigger_firing import Firing
from millrace_api.adapters.trigger_schedules import Schedules
from millrace_api.adapters.trigger_store import TriggerStore
from millrace_api.adapters.trigger_tallies import Tallies
from millrace_api.adapters.trigger_ticks import Ticks
from millrace_api.adapters.usage import UsageReader
from millrace_api.adapters.uses import Uses
from millrace_api.adapters.waiting import Waiting
from millrace_api.adapters.workflow_feed import WorkflowFeed
from millrace_api.adapters.workflow_store import WorkflowStore
from millrace_api.app import build
from millrace_api.identity import Authenticator
from millrace_api.routes.exchange import Adapters
from millrace_api.server import Server
from millrace_api.settings import ApiSettings
from millrace_shared.blobs import Blobs
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.group_commit import GroupCommit
from millrace_shared.bus.publisher import Publisher
from millrace_shared.bus.streams import ensure_streams
from millrace_shared.postgres import Pool, create_pool, migrate
from millrace_shared.postgres import connect as connect_database
from millrace_shared.service import instance_name

SCHEMA = "config"
PACKAGE = "millrace_api"
SOCKETS_MAX = 2_000
"""WebSockets of one process."""
COMMAND_TIMEOUT_S = 15.0
"""Nobody waits longer than this for a page."""


@dataclass(frozen=True, slots=True)
class Running:
    """The service while it runs."""

    adapters: Adapters
    port: int


@contextlib.asynccontextmanager
async def serve(settings: ApiSettings) -> AsyncIterator[Running]:
    """Run the api: ready when entered, drained when left."""
    async with contextlib.AsyncExitStack() as stack:
        connection = await connect(settings.nats_url.get_secret_value(), f"api {instance_name(settings)}")
        stack.push_async_callback(connection.close)
        await ensure_streams(connection, settings.nats_replicas)
        url = settings.database_url.get_secret_value()
        database = await connect_database(url, application_name="millrace-api migrations")
        try:
            await migrate(database, SCHEMA, PACKAGE)
        finally:
            await database.close()
        pool = await create_pool(
            url,
            max_size=settings.database_pool_max,
            application_name="millrace-api",
            command_timeout_s=COMMAND_TIMEOUT_S,
        )
        stack.push_async_callback(pool.close)
        publisher = await Publisher(connection).start()
        schedules = Schedules(connection, publisher)
        adapters = await _compose(settings, connection, publisher, pool, schedules)
        stack.push_async_callback(adapters.inbox.drain)
        stack.push_async_callback(adapters.acceptance.drain)
        stack.push_async_callback(adapters.firing.close)
        ticks = Ticks(connection, publisher, pool, adapters.triggers, schedules, adapters.firing)
        stack.push_async_callback(ticks.stop)
        await ticks.start()
        nats_url = settings.nats_url.get_secret_value()
        events = TriggerEvents(nats_url, connection, publisher, adapters.triggers, adapters.firing, adapters.dead)
        stack.push_async_callback(events.stop)
        await events.start()
        server = Server(build(adapters), settings.api_host, settings.api_port, settings.api_drain_s)
        await server.start()
        stack.push_async_callback(server.stop)
        stack.callback(adapters.feed.end_all, "this server stops")
        stack.callback(adapters.watch.stop)
        stack.callback(adapters.waiting.stop)
        stack.callback(adapters.steering.stop)
        yield Running(adapters, server.port)


async def _compose(
    settings: ApiSettings, connection: Connection, publisher: Publisher, pool: Pool, schedules: Schedules
) -> Adapters:
    catalogue = Catalogue(connection)
    workflows = WorkflowStore(pool, publisher, catalogue.changed)
    agents = AgentStore(pool, catalogue.changed)
    binding = Binding(agents, publisher)
    await catalogue.start(workflows, binding)
    definitions = Definitions(connection)
    projection = ProjectionReader(pool)
    blobs = Blobs(settings.blobs)
    uses = Uses(catalogue, workflows, binding)
    acceptance = Acceptance(connection, catalogue, GroupCommit(publisher), GroupCommit(publisher), blobs, uses)
    executions = Executions(connection, projection, definitions, acceptance)
    inbox = GroupCommit(publisher)
    histories = Histories(connection, projection, acceptance)
    derivation = Derivation(acceptance, histories, definitions, catalogue, uses, blobs)

    async def check_nats() -> None:
        # Not `flush`: when that times out, the late answer ends nats-py's read loop for good.
        await connection.jetstream_api("INFO")

    async def check_postgres() -> None:
        await pool.fetchval("SELECT 1")

    return Adapters(
        authenticator=Authenticator(settings.api_key.get_secret_value()),
        acceptance=acceptance,
        waiting=Waiting(connection, acceptance, executions),
        executions=executions,
        projection=projection,
        event_log=EventLog(connection),
        inbox=inbox,
        explainer=Explainer(connection, executions, projection),
        steering=Steering(connection, acceptance, executions, definitions, inbox),
        derivation=derivation,
        bulk=Bulk(projection, derivation, inbox),
        uses=uses,
        workflows=workflows,
        agents=agents,
        invocations=Invocations(agents, acceptance, publisher, blobs),
        drafting=Drafting(),
        triggers=TriggerStore(pool, schedules, workflows),
        firing=Firing(acceptance, Tallies(pool)),
        dead=DeadLetters(connection, publisher),
        rate_limits=RateLimits(pool),
        budgets=Budgets(pool),
        usage=UsageReader(pool),
        definitions=definitions,
        blobs=blobs,
        feed=WorkflowFeed(connection, definitions),
        watch=ExecutionWatch(connection),
        sockets=Places(SOCKETS_MAX, "too_many_watching", "live feeds are open"),
        checks={"nats": check_nats, "postgres": check_postgres},
    )
