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

import re
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, NamedTuple

from app.transport.errors import AddressRefused, InvalidOrigin, NameNotResolved

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

#: Called like socket.getaddrinfo, and answers like it.
Resolver = Callable[..., Sequence[tuple[Any, ...]]]

DEFAULT_PORTS = {"http": 80, "https": 443}

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

_ORIGIN = re.compile(
    r"(?P<scheme>[A-Za-z]+)://(?P<host>\[[^\]]*\]|[^:/?#@\[\]\\]+)(?::(?P<port>[0-9]{1,5}))?/?"
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
#: A last label of this form makes C libraries read the host as a number: 127.1, 0x7f.1, 2130706433.
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Origin(NamedTuple):
    """An origin in its parts. `host` is without brackets; `port` is always there."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """`host[:port]` as it stands in a URL and in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


class Address(NamedTuple):
    """One vetted address: what to connect to, without asking the resolver again."""

    ip: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


def parse_origin(text: str) -> str:
    """The origin in its one spelling: `scheme://host[:port]`, lower case, no path, no default port.

    A final slash, capitals and a default port are put right, so `parse_origin(x) == x` tells whether `x`
    is canonical. Raises InvalidOrigin, for numbers in disguise (`2130706433`, `0177.0.0.1`) too.
    """
    return str(split_origin(text))


def split_origin(text: str) -> Origin:
    """parse_origin, in parts."""
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise InvalidOrigin("an origin is written scheme://host or scheme://host:port, without a path")
    scheme = match["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        raise InvalidOrigin(f"the scheme is {scheme}, but only https and http are spoken here")
    port = int(match["port"]) if match["port"] is not None else DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65535:
        raise InvalidOrigin(f"{port} is no port")
    return Origin(scheme, _canonical_host(match["host"].lower()), port)


def _canonical_host(host: str) -> str:
    """A name of letters, digits, `-` and `_`, or an address in its shortest spelling. No brackets."""
    if host.startswith("["):
        return _literal(host[1:-1], IPv6Address)
    labels = host.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        return _literal(host, IPv4Address)
    if not host.isascii():
        raise InvalidOrigin("the host has characters beyond ASCII; write such a name in its xn-- form")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidOrigin(f"{host} is no host name")
    return host


def _literal(text: str, kind: type[IPv4Address] | type[IPv6Address]) -> str:
    """The address as ipaddress prints it. Its parsers take no octal, hexadecimal or shortened IPv4."""
    if "%" in text:
        raise InvalidOrigin("an address with a zone means something on one host only")
    try:
        return str(kind(text))
    except ValueError:
        raise InvalidOrigin(f"{text} is no address in the usual notation") from None


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
