import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace_agent_runner.domain.addresses import Allowed, is_public

REFUSED = [
    "127.0.0.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.9",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001::1",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "100::1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_on_the_public_internet_is_refused(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_what_is_on_the_public_internet_is_permitted(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_the_same_in_every_disguise(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    disguises = [0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80]
    assert {is_public(ipaddress.IPv6Address(one)) for one in disguises} == {is_public(address)}


def test_the_operator_can_allow_networks_and_hosts() -> None:
    allowed = Allowed.parse(["10.0.0.0/8", "Internal.Example", "::1"])
    ten, other = ipaddress.ip_address("10.9.9.9"), ipaddress.ip_address("192.168.0.1")
    assert allowed.permits("anything", ten)
    assert allowed.permits("anything", ipaddress.ip_address("::ffff:10.9.9.9"))
    assert allowed.permits("internal.example.", other)
    assert not allowed.permits("anything", other)
    assert allowed.permits("localhost", ipaddress.ip_address("::1"))


def test_a_network_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        Allowed.parse(["10.0.0.0/99"])
