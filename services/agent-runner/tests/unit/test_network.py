import ipaddress
from typing import Any

import httpcore
import pytest

from millrace_agent_runner.domain.addresses import Allowed
from millrace_agent_runner.errors import TerminalFailure
from millrace_agent_runner.executors import network
from millrace_agent_runner.executors.network import GuardedNetwork


class Dialled:
    """Stands where sockets are opened, and notes the addresses."""

    def __init__(self, *refusing: str) -> None:
        self.addresses: list[str] = []
        self._refusing = refusing

    async def connect_tcp(self, host: str, *_: Any, **__: Any) -> str:
        self.addresses.append(host)
        if host in self._refusing:
            raise httpcore.ConnectError("refused")
        return "connected"


@pytest.fixture
def resolving(monkeypatch: pytest.MonkeyPatch) -> Any:
    def to(*addresses: str) -> list[str]:
        asked: list[str] = []

        async def resolve(host: str, _: int) -> list[Any]:
            asked.append(host)
            return [ipaddress.ip_address(address) for address in addresses]

        monkeypatch.setattr(network, "_resolve", resolve)
        return asked

    return to


async def test_the_connection_goes_to_the_address_that_was_judged(resolving: Any) -> None:
    asked = resolving("10.0.0.1", "8.8.8.8")
    guarded, dialled = GuardedNetwork(Allowed()), Dialled()
    guarded._network = dialled  # type: ignore[assignment]
    assert await guarded.connect_tcp("example.com", 443) == "connected"
    assert dialled.addresses == ["8.8.8.8"]
    assert asked == ["example.com"]  # once: a second answer could be another


async def test_the_next_address_is_tried_and_only_so_many(resolving: Any) -> None:
    resolving("8.8.8.8", "9.9.9.9")
    guarded, dialled = GuardedNetwork(Allowed()), Dialled("8.8.8.8")
    guarded._network = dialled  # type: ignore[assignment]
    assert await guarded.connect_tcp("example.com", 443) == "connected"
    assert dialled.addresses == ["8.8.8.8", "9.9.9.9"]
    many = [f"8.8.8.{number}" for number in range(20)]
    resolving(*many)
    guarded._network = dialled = Dialled(*many)  # type: ignore[assignment]
    with pytest.raises(httpcore.ConnectError):
        await guarded.connect_tcp("example.com", 443)
    assert len(dialled.addresses) == network.ADDRESSES_TRIED_MAX


async def test_nothing_is_dialled_when_no_address_is_permitted(resolving: Any) -> None:
    resolving("10.0.0.1", "::1")
    guarded, dialled = GuardedNetwork(Allowed()), Dialled()
    guarded._network = dialled  # type: ignore[assignment]
    with pytest.raises(TerminalFailure, match="MILLRACE_HTTP_ALLOW"):
        await guarded.connect_tcp("inside.example", 80)
    with pytest.raises(TerminalFailure):
        await guarded.connect_unix_socket("/run/docker.sock")
    assert dialled.addresses == []
