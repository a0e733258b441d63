"""The runner's database: the schema `spend`, which all runners share. It is optional; without it nothing is limited."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from millrace_shared.postgres import Pool, connect, create_pool, migrate

if TYPE_CHECKING:
    from asyncpg import Record
    from asyncpg.pool import PoolConnectionProxy

    Session = PoolConnectionProxy[Record]
    """A connection of the pool, while it is lent."""

log = logging.getLogger(__name__)

SCHEMA = "spend"
PACKAGE = "millrace_agent_runner"
COMMAND_TIMEOUT_S = 10.0
"""A call to a model waits for these statements, and all of them are short."""


@asynccontextmanager
async def open_database(url: str | None, pool_max: int) -> AsyncIterator[Pool | None]:
    """Bring the schema up to date, and open a pool until left. None without a URL, which the log says once.

    Raises:
        DatabaseUnavailable: no server answered in time.
        DatabaseRefused: user, password or database are wrong.
        MigrationRefused: the schema cannot be brought up to date.
    """
    if url is None:
        log.warning("no MILLRACE_DATABASE_URL: the rate limits and budgets that are kept there do not hold")
        yield None
        return
    connection = await connect(url, application_name="millrace-agent-runner migrations")
    try:
        await migrate(connection, SCHEMA, PACKAGE)
    finally:
        await connection.close()
    pool = await create_pool(
        url, max_size=pool_max, application_name="millrace-agent-runner", command_timeout_s=COMMAND_TIMEOUT_S
    )
    try:
        yield pool
    finally:
        await pool.close()
