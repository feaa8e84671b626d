"""Addresses: which hosts may be named, and which addresses may be called.

A peer's name is somebody else's claim, and what it resolves to is somebody
else's choice. So a name is resolved once, every address it has must be public
unicast, and the connection goes to the very address that was looked at:

    parse_origin    text -> "https://b.example:8443"      one spelling per origin
    vet             host -> [Address, ...]                all of them allowed, or none
    is_allowed      the judgement on one address

`ipaddress.is_global` does not decide here: it is True for NAT64, 6to4,
multicast and fec0::/10, and differs between versions of Python. The networks
are written out instead (IANA special-purpose registries, as of 2026).
"""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, NamedTuple

from app.protocol import origins
from app.protocol.origins import Origin
from app.transport.errors import AddressRefused, InvalidOrigin, NameNotResolved

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

#: Called like socket.getaddrinfo, and answers like it.
Resolver = Callable[..., Sequence[tuple[Any, ...]]]

#: Everything in IPv4 that is not public unicast.
_NOT_PUBLIC_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers (CGNAT)
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; the metadata services of clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays to 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
#: All of IPv6 that is given out as global unicast. What lies outside is refused as a whole: loopback,
#: IPv4-mapped and -compatible, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), fc00::/7, fe80::/10, fec0::/10 and
#: ff00::/8 among it.
_PUBLIC_6 = IPv6Network("2000::/3")
#: The exceptions inside it.
_NOT_PUBLIC_6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries any IPv4 address
        "3fff::/20",  # documentation
    )
)


class Address(NamedTuple):
    """One vetted address: what to connect to, without asking the resolver again."""

    ip: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


def parse_origin(text: str) -> str:
    """`app.protocol.origins.parse_origin`. Raises InvalidOrigin."""
    return str(split_origin(text))


def split_origin(text: str) -> Origin:
    """parse_origin, in parts."""
    try:
        return origins.split_origin(text)
    except ValueError as error:
        raise InvalidOrigin(str(error)) from None


def vet(
    host: str,
    port: int,
    scheme: str,
    allowed_networks: Sequence[IPNetwork],
    resolve: Resolver = socket.getaddrinfo,
) -> list[Address]:
    """Resolve the host once and return its addresses, in the resolver's order, if all of them are allowed.

    Plain http goes to allowed networks only. One bad address refuses the name as a whole: whoever mixes
    ours with theirs means no good, and the next look-up could bring the other first.
    Raises AddressRefused, NameNotResolved. Blocks as long as the resolver does.
    """
    addresses = _resolve(host, port, resolve)
    for address in addresses:
        if not (is_named(address.ip, allowed_networks) or (scheme == "https" and is_public(address.ip))):
            raise _refusal(host, address.ip)
    return addresses


def is_allowed(ip: IPAddress, allowed_networks: Sequence[IPNetwork]) -> bool:
    """Whether the address is public unicast, or unicast in a network that the settings name."""
    return is_named(ip, allowed_networks) or is_public(ip)


def is_named(ip: IPAddress, allowed_networks: Sequence[IPNetwork]) -> bool:
    """Whether a network of the settings holds the address. What is nobody's address is in none of them."""
    if ip.is_multicast or ip.is_unspecified or _has_zone(ip):
        return False
    return any(ip in network for network in allowed_networks)


def is_public(ip: IPAddress) -> bool:
    """Whether the address is public unicast."""
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _NOT_PUBLIC_4)
    return not _has_zone(ip) and ip in _PUBLIC_6 and not any(ip in network for network in _NOT_PUBLIC_6)


def _has_zone(ip: IPAddress) -> bool:
    return isinstance(ip, IPv6Address) and ip.scope_id is not None


def _resolve(host: str, port: int, resolve: Resolver) -> list[Address]:
    """Every address of the host, each once. An address written out needs no resolver."""
    try:
        return [Address(ip_address(host), port)]
    except ValueError:
        pass
    try:
        found = resolve(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "the name is not valid"
        raise NameNotResolved(f"{host} was not found: {reason}") from error
    addresses = dict.fromkeys(Address(_ip_of(host, sockaddr), port) for *_, sockaddr in found)
    if not addresses:
        raise NameNotResolved(f"{host} was not found: it has no address")
    return list(addresses)


def _ip_of(host: str, sockaddr: Sequence[Any]) -> IPAddress:
    """The address in a tuple of getaddrinfo, with its zone if it has one."""
    text, zone = str(sockaddr[0]), sockaddr[3] if len(sockaddr) == 4 else 0
    try:
        return ip_address(f"{text}%{zone}" if zone and "%" not in text else text)
    except ValueError:
        raise NameNotResolved(f"{host} was not found: the resolver answered {text}") from None


def _refusal(host: str, ip: IPAddress) -> AddressRefused:
    who = f"{host} is" if host == str(ip) else f"{host} has the address {ip}, which is"
    if is_public(ip):
        return AddressRefused(f"{who} public, and plain http is only for FEDERATION_ALLOWED_NETWORKS")
    return AddressRefused(f"{who} not public and not in FEDERATION_ALLOWED_NETWORKS")
