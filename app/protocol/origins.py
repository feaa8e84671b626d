"""Origins: `scheme://host[:port]` in the one spelling that is compared and signed for (§2).

Settings, calls of our own people and calls to peers all read origins here, so that what one of them
accepts means the same to the others.
"""

import re
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

DEFAULT_PORTS = {"http": 80, "https": 443}

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


def parse_origin(text: str) -> str:
    """The origin in its one spelling: `scheme://host[:port]`, lower case, no path, no default port.

    A final slash, capitals and a default port are put right, so `parse_origin(x) == x` tells whether `x`
    is canonical. Raises ValueError, for numbers in disguise (`2130706433`, `0177.0.0.1`) too.
    """
    return str(split_origin(text))


def split_origin(text: str) -> Origin:
    """parse_origin, in parts."""
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError("an origin is written scheme://host or scheme://host:port, without a path")
    scheme = match["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        raise ValueError(f"the scheme is {scheme}, but only https and http are spoken here")
    port = int(match["port"]) if match["port"] is not None else DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65535:
        raise ValueError(f"{port} is no port")
    return Origin(scheme, canonical_host(match["host"]), port)


def canonical_host(host: str) -> str:
    """A name of letters, digits, `-` and `_`, or an address in its shortest spelling, without the brackets
    that an IPv6 address is given in. Raises ValueError.
    """
    host = host.lower()
    if host.startswith("[") and host.endswith("]"):
        return _literal(host[1:-1], IPv6Address)
    labels = host.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        return _literal(host, IPv4Address)
    if not host.isascii():
        raise ValueError("the host has characters beyond ASCII; write such a name in its xn-- form")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{host} is no host name")
    return host


def _literal(text: str, kind: type[IPv4Address] | type[IPv6Address]) -> str:
    """The address as ipaddress prints it. Its parsers take no octal, hexadecimal or shortened IPv4."""
    if "%" in text:
        raise ValueError("an address with a zone means something on one host only")
    try:
        return str(kind(text))
    except ValueError:
        raise ValueError(f"{text} is no address in the usual notation") from None
