"""The composition root: what the agent runner is made of, and in which order it starts and drains."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from millrace_agent_runner.adapters.cache import ResultCache
from millrace_agent_runner.adapters.database import open_database
from millrace_agent_runner.adapters.facts import Facts
from millrace_agent_runner.adapters.journal import StoredJournals
from millrace_agent_runner.adapters.ledger import Ledger
from millrace_agent_runner.adapters.limits import Limits
from millrace_agent_runner.adapters.worker import Worker
from millrace_agent_runner.domain.attempt import Executor
from millrace_agent_runner.domain.perform import Performer
from millrace_agent_runner.domain.prices import OwnPrices
from millrace_agent_runner.domain.secrets import environment_secrets
from millrace_agent_runner.executors.agent.executor import AgentExecutor
from millrace_agent_runner.executors.http import HttpExecutor
from millrace_agent_runner.executors.python import Functions, PythonExecutor
from millrace_agent_runner.executors.threads import Threads
from millrace_agent_runner.functions import project_files
from millrace_agent_runner.settings import RunnerSettings
from millrace_shared.blobs import Blobs
from millrace_shared.bus.connection import Connection, connect
from millrace_shared.bus.publisher import Publisher
from millrace_shared.bus.streams import ensure_streams
from millrace_shared.errors import BusUnavailable
from millrace_shared.messages import WorkKind
from millrace_shared.ops import Check, OpsServer
from millrace_shared.postgres import Pool
from millrace_shared.service import instance_name

log = logging.getLogger(__name__)

THREADS_PER_SLOT = 2
"""Functions that ignore their deadline keep their threads, so there are more threads than slots."""


@asynccontextmanager
async def agent_runner(settings: RunnerSettings) -> AsyncIterator[Worker]:
    """Run the service: ready when entered, drained when left."""
    runner = instance_name(settings)
    url = settings.database_url.get_secret_value() if settings.database_url else None
    async with AsyncExitStack() as stack:
        connection = await connect(settings.nats_url.get_secret_value(), runner)
        stack.push_async_callback(connection.drain)
        await ensure_streams(connection, settings.nats_replicas)
        publisher = await Publisher(connection).start()
        pool = await stack.enter_async_context(open_database(url, settings.runner_database_pool_max))
        facts = Facts(connection, publisher)
        blobs = Blobs(settings.blobs)
        journals = StoredJournals(connection, publisher, blobs, runner)
        functions = Functions(settings.module_prefixes)
        project_files.permit(settings.scanned)
        threads = Threads(settings.runner_slots * THREADS_PER_SLOT)
        python = PythonExecutor(functions, threads)
        http = HttpExecutor(settings.allowed)
        limits = None if pool is None else Limits(pool, settings.limits)
        if limits is not None:
            await limits.start()
            stack.push_async_callback(limits.stop)
        elif settings.limits:
            log.warning("MILLRACE_RATE_LIMITS do not hold: runners share them through Postgres, and there is none")
        prices = OwnPrices(settings.own_prices)
        ledger = None
        if pool is not None:
            ledger = Ledger(pool, prices.use, unpriced_fits=settings.budgets_unpriced == "allow")
            await ledger.start()
            stack.push_async_callback(ledger.stop)
        agent = AgentExecutor(
            facts,
            journals,
            http,
            python,
            os.environ,
            settings.openai_base_url,
            limits,
            ledger,
            prices,
            settings.offered_mcp_servers,
        )
        executors: dict[WorkKind, Executor] = {"python": python, "http": http, "agent": agent}
        secrets = environment_secrets(os.environ)
        performer = Performer(executors, blobs, ResultCache(connection), secrets, runner)
        worker = Worker(
            connection,
            publisher,
            performer,
            facts,
            slots=settings.runner_slots,
            grace_s=settings.runner_grace_s,
            runner=runner,
        )
        checks: dict[str, Check] = {"nats": lambda: _answers(connection), "threads": threads.check}
        if pool is not None:
            checks["postgres"] = partial(_database_answers, pool)
        ops = OpsServer(settings.ops_host, settings.ops_port, checks)
        await ops.start()
        stack.push_async_callback(ops.stop)
        stack.push_async_callback(http.close)
        stack.push_async_callback(agent.close)
        stack.push_async_callback(worker.stop)
        await worker.start()
        log.info("%d slots; operations on port %d", settings.runner_slots, ops.port)
        yield worker


async def _answers(connection: Connection) -> None:
    if not connection.is_connected:
        raise BusUnavailable("not connected; trying again all the time")
    await connection.jetstream_api("STREAM.INFO.WORK")


async def _database_answers(pool: Pool) -> None:
    await pool.fetchval("SELECT 1")
