"""Which network addresses an HTTP step may reach: only globally routable ones, however they are written.

An IPv6 address can carry an IPv4 one (mapped, NAT64, 6to4); what counts is where the packet ends up, so the address
inside is judged. A tunnel that hides its end (Teredo, local NAT64 prefixes) is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "64:ff9b:1::/48",  # local-use NAT64: ends wherever the operator says
        "100::/64",  # discard
        "2001::/23",  # Teredo, ORCHID, benchmarking and other protocol assignments
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fec0::/10",  # site-local, deprecated and still routed by some
    )
)
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
    )
)


def effective(address: Address) -> Address:
    """Return the address that a packet to `address` ends at: the IPv4 one inside, when there is one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public(address: Address) -> bool:
    """Tell whether `address`, and what it may carry, is on the public internet and is one host."""
    target = effective(address)
    refused = _REFUSED_V4 if isinstance(target, ipaddress.IPv4Address) else _REFUSED_V6
    return (
        target.is_global
        and not (target.is_multicast or target.is_reserved or target.is_unspecified or target.is_loopback)
        and not any(target in network for network in refused)
    )


@dataclass(frozen=True)
class Allowed:
    """What the operator allows beyond the public internet."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Self:
        """Read networks (`10.0.0.0/8`), addresses and host names.

        Raises:
            ValueError: an entry with a slash is not a network.
        """
        networks: list[Network] = []
        hosts: set[str] = set()
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                if "/" in entry:
                    raise
                hosts.add(entry.lower().rstrip("."))
        return cls(tuple(networks), frozenset(hosts))

    def permits(self, host: str, address: Address) -> bool:
        """Tell whether `host`, which resolved to `address`, may be reached."""
        if is_public(address) or host.lower().rstrip(".") in self.hosts:
            return True
        target = effective(address)
        return any(target in network for network in self.networks if network.version == target.version)
