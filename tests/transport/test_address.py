"""Which hosts may be named, and which addresses may be called."""

import socket
from ipaddress import ip_address, ip_network

import pytest

from app.transport.address import Address, is_allowed, is_public, parse_origin, vet
from app.transport.errors import AddressRefused, InvalidOrigin, NameNotResolved

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450:4001:82a::200e",
]

NOT_PUBLIC = [
    ("0.0.0.0", "unspecified, reaches loopback on Linux"),
    ("0.1.2.3", "this network"),
    ("10.0.0.1", "private"),
    ("100.64.0.1", "CGNAT"),
    ("100.127.255.255", "CGNAT, its end"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback, its end"),
    ("169.254.169.254", "metadata of a cloud"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private, its end"),
    ("192.0.0.1", "protocol assignments"),
    ("192.0.0.9", "protocol assignments, is_global"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "relay to 6to4"),
    ("192.168.0.1", "private"),
    ("198.18.0.1", "benchmarks"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("224.0.0.1", "multicast"),
    ("233.252.0.1", "multicast, is_global"),
    ("239.255.255.255", "multicast, its end"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::7f00:1", "IPv4-compatible loopback"),
    ("::808:808", "IPv4-compatible"),
    ("::ffff:127.0.0.1", "IPv4-mapped loopback"),
    ("::ffff:8.8.8.8", "IPv4-mapped"),
    ("::ffff:0:8.8.8.8", "IPv4-translated"),
    ("64:ff9b::7f00:1", "NAT64 of loopback"),
    ("64:ff9b::808:808", "NAT64"),
    ("64:ff9b:1::1", "NAT64 of local use"),
    ("100::1", "discard"),
    ("2001::1", "Teredo"),
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "Teredo"),
    ("2001:2::1", "benchmarks"),
    ("2001:10::1", "ORCHID"),
    ("2001:20::1", "ORCHIDv2"),
    ("2001:db8::1", "documentation"),
    ("2002:7f00:1::1", "6to4 of loopback"),
    ("2002:808:808::1", "6to4"),
    ("3fff::1", "documentation"),
    ("4000::1", "not given out"),
    ("5f00::1", "segment routing"),
    ("fc00::1", "unique local"),
    ("fd12:3456:789a::1", "unique local"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local with a zone"),
    ("2606:4700::1%eth0", "global with a zone"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    ("ff0e::1", "multicast of global scope"),
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public_unicast_may_be_called(text):
    assert is_allowed(ip_address(text), ())


@pytest.mark.parametrize(("text", "why"), NOT_PUBLIC)
def test_anything_else_is_refused(text, why):
    assert not is_allowed(ip_address(text), ()), why


def test_nothing_that_python_calls_private_is_public():
    """Python knows some networks we do not list one by one; ours must be the stricter judgement."""
    ends = [
        end
        for first in range(256)
        for second in range(0, 256, 3)
        for end in (f"{first}.{second}.0.1", f"{first:02x}{second:02x}::1", f"2001:{first:x}{second:02x}::1")
    ]

    loose = [text for text in ends if is_public(ip_address(text)) and not ip_address(text).is_global]

    assert loose == []


def test_a_private_network_is_reachable_only_by_naming_it():
    allowed = [ip_network("10.1.0.0/16"), ip_network("fd00:1::/32")]

    verdicts = {
        text: is_allowed(ip_address(text), allowed)
        for text in ("10.1.2.3", "10.2.0.1", "fd00:1::5", "fd00:2::5", "::ffff:10.1.2.3", "8.8.8.8")
    }

    assert verdicts == {
        "10.1.2.3": True,
        "10.2.0.1": False,
        "fd00:1::5": True,
        "fd00:2::5": False,
        "::ffff:10.1.2.3": False,
        "8.8.8.8": True,
    }


@pytest.mark.parametrize("text", ["0.0.0.0", "224.0.0.1", "::", "ff02::1", "fe80::1%eth0"])
def test_what_is_nobodys_address_stays_refused_whatever_is_named(text):
    everything = [ip_network("0.0.0.0/0"), ip_network("::/0")]

    assert not is_allowed(ip_address(text), everything)


def answers(*ips):
    """A resolver that knows these addresses for every name."""

    def resolve(host, port, **_):
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (ip, port, 0, 0))
            if ":" in ip
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
            for ip in ips
        ]

    return resolve


def test_all_addresses_of_a_name_are_returned_once_each_in_order():
    found = vet("b.example", 443, "https", (), answers("2606:4700::1", "1.1.1.1", "1.1.1.1"))

    assert found == [Address(ip_address("2606:4700::1"), 443), Address(ip_address("1.1.1.1"), 443)]


@pytest.mark.parametrize(
    "mix", [("1.1.1.1", "10.0.0.1"), ("127.0.0.1", "1.1.1.1"), ("2606:4700::1", "::ffff:1.1.1.1")]
)
def test_one_bad_address_refuses_the_name(mix):
    with pytest.raises(AddressRefused, match="not public") as caught:
        vet("b.example", 443, "https", (), answers(*mix))

    assert caught.value.code == "address_refused"


def test_a_zone_that_the_resolver_gives_apart_is_seen():
    def resolve(host, port, **_):
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", port, 0, 2))]

    with pytest.raises(AddressRefused):
        vet("b.example", 443, "https", [ip_network("fe80::/10")], resolve)


def test_plain_http_goes_to_named_networks_only():
    with pytest.raises(AddressRefused, match="plain http"):
        vet("b.example", 80, "http", [ip_network("10.0.0.0/8")], answers("1.1.1.1"))

    assert vet("b.example", 80, "http", [ip_network("10.0.0.0/8")], answers("10.0.0.1"))


def test_an_address_written_out_is_judged_without_a_resolver():
    def resolve(*_, **__):
        raise AssertionError("nobody was to be asked")

    with pytest.raises(AddressRefused, match=r"127\.0\.0\.1 is not public"):
        vet("127.0.0.1", 443, "https", (), resolve)

    assert vet("1.1.1.1", 443, "https", (), resolve) == [Address(ip_address("1.1.1.1"), 443)]


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "①②⑦.⓪.⓪.①"])
def test_numbers_in_disguise_are_judged_by_what_the_resolver_makes_of_them(host):
    with pytest.raises((AddressRefused, NameNotResolved)):
        vet(host, 443, "https", ())


@pytest.mark.parametrize(
    "failure", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")]
)
def test_a_name_that_is_not_known_is_told_apart(failure):
    def resolve(*_, **__):
        raise failure

    with pytest.raises(NameNotResolved, match=r"b\.example was not found") as caught:
        vet("b.example", 443, "https", (), resolve)

    assert caught.value.code == "dns_failed"


@pytest.mark.parametrize("ips", [(), ("nonsense",), ("1.1.1.1", "127.1")])
def test_a_resolver_without_proper_addresses_did_not_resolve(ips):
    with pytest.raises(NameNotResolved):
        vet("b.example", 443, "https", (), answers(*ips))


def test_a_text_that_is_no_origin_is_an_error_of_the_transport():
    with pytest.raises(InvalidOrigin, match="is no port") as caught:
        parse_origin("https://b.example:65536")

    assert caught.value.code == "invalid_origin"
