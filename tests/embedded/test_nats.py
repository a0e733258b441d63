import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import nats
import pytest

from millrace.embedded import BackgroundStack, EmbeddedStack
from millrace.embedded.nats import MAX_PAYLOAD_BYTES, NatsServer


@pytest.mark.parametrize("credentials", [{}, {"user": "millrace", "pass": "wrong"}])
async def test_nobody_gets_in_without_the_password(nats_url: str, credentials: dict[str, str]):
    address = urlsplit(nats_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        assert (await reader.readline()).startswith(b"INFO")
        writer.write(f"CONNECT {json.dumps(credentials)}\r\nPING\r\n".encode())
        assert b"Authorization Violation" in await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_acknowledged_messages_survive_a_kill(fresh_nats: BackgroundStack):
    client = await nats.connect(fresh_nats.nats_url)
    try:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="KEPT", subjects=["kept"])
        for number in range(100):
            await jetstream.publish("kept", str(number).encode())
    finally:
        await client.close()
    fresh_nats.kill("nats")
    fresh_nats.wait_ready("nats")
    client = await nats.connect(fresh_nats.nats_url)
    try:
        assert (await client.jetstream().stream_info("KEPT")).state.messages == 100
        assert client.max_payload == MAX_PAYLOAD_BYTES
    finally:
        await client.close()


async def test_a_stack_keeps_its_address_and_its_messages(tmp_path: Path):
    urls = []
    for times in (1, 2):
        async with EmbeddedStack(tmp_path, durability="fsync", servers=("nats",), services={}) as stack:
            urls.append(stack.nats_url)
            client = await nats.connect(stack.nats_url)
            jetstream = client.jetstream()
            await jetstream.add_stream(name="KEPT", subjects=["kept"])
            assert (await jetstream.publish("kept", b"x")).seq == times
            await client.close()
    assert urls[0] == urls[1]
    assert "sync_interval: always" in (tmp_path / "nats" / "nats-server.conf").read_text()
    assert (tmp_path / "nats" / "nats-server.conf").stat().st_mode & 0o777 == 0o600


def server(tmp_path: Path, **options: object) -> NatsServer:
    return NatsServer(directory=tmp_path, port=4222, password='it\'s "quoted"', **options)  # type: ignore[arg-type]


def test_only_fsync_syncs_always(tmp_path: Path):
    assert "sync_interval: always" in server(tmp_path, durability="fsync").config()
    assert "sync_interval" not in server(tmp_path, durability="interval").config()


def test_monitoring_is_off_unless_asked_for(tmp_path: Path):
    assert "http" not in server(tmp_path).config()
    assert 'http: "127.0.0.1:8222"' in server(tmp_path, monitor_port=8222).config()


def test_a_password_shows_in_no_representation(tmp_path: Path):
    assert "quoted" not in repr(server(tmp_path))
