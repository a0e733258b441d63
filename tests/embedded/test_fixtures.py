"""The fixtures every other test stands on."""

import asyncpg
import nats

from millrace.embedded import BackgroundStack


async def test_the_session_nats_server_has_jetstream(nats_url: str) -> None:
    client = await nats.connect(nats_url)
    try:
        info = await client.jetstream().account_info()
        assert info.streams >= 0
    finally:
        await client.close()


async def test_a_fresh_server_is_empty_and_can_be_killed(fresh_nats: BackgroundStack) -> None:
    fresh_nats.kill("nats")
    fresh_nats.wait_ready("nats")
    assert fresh_nats.restarts("nats") == 1
    client = await nats.connect(fresh_nats.nats_url)
    try:
        assert (await client.jetstream().account_info()).streams == 0
    finally:
        await client.close()


async def test_a_module_keeps_its_database(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("CREATE TABLE mark (id int)")
    finally:
        await connection.close()


async def test_a_module_keeps_its_database_from_test_to_test(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT to_regclass('mark') IS NOT NULL")
    finally:
        await connection.close()


async def test_a_fresh_database_is_empty(database_url: str, fresh_database_url: str) -> None:
    assert fresh_database_url != database_url
    connection = await asyncpg.connect(fresh_database_url)
    try:
        assert await connection.fetchval("SELECT to_regclass('mark') IS NULL")
    finally:
        await connection.close()
