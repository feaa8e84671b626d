"""The client: the one way out.

    call ─► idle wire to this origin? ──yes──────────────────────────► exchange ─► Answer
                  │ no, or it was closed meanwhile                        ▲
                  └─► resolve ─► vet every address ─► connect (TLS) ──────┘

Kept-alive connections stay pinned to the address that was vetted for them, for
some minutes; every new one is resolved and vetted anew. Nothing of the
environment is used: no proxies, no .netrc, no cookies. Redirects are failures.

It stands on http.client and not on requests, which costs 0.3 ms more CPU a call
and follows redirects, inflates, normalises signed URLs and reads the environment
unless each is switched off.
"""

import os
import re
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import NamedTuple

from app.transport.address import Address, IPNetwork, Origin, Resolver, parse_origin, split_origin, vet
from app.transport.errors import InvalidOrigin, NameNotResolved
from app.transport.wire import Deadline, StaleWire, Wire, open_wire

#: Times and sizes of protocol.md §8.
CONNECT_TIMEOUT_S = 5.0
DEADLINE_S = 15.0
MAX_ANSWER_BYTES = 1024 * 1024

#: Headers of a request, or what makes them anew whenever the request is sent.
Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]

_URL = re.compile(r"([a-z]+://[^/?#]+)(/[!-\"$-~]*)")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [ -~]*")


class Answer(NamedTuple):
    """What a peer answered. Nothing in it is to be believed before it was parsed and verified."""

    status: int
    headers: dict[str, str]  #: names in lower case; repeated ones joined by ", "
    body: bytes  #: as sent, never decoded
    duration_ms: int  #: the whole call, resolving and connecting included

    @property
    def server_date_ms(self) -> int | None:
        """The Date header in Unix milliseconds, None if it is missing or makes no sense."""
        try:
            moment = parsedate_to_datetime(self.headers.get("date", ""))
            return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)
        except (ValueError, OverflowError):
            return None


class Client:
    """Calls other instances. One per process; safe to share between threads and across fork.

    allowed_networks   private networks that may be called, and over plain http
    ca_file            PEM file of certificate authorities that are trusted besides those of the system
    resolve            called like socket.getaddrinfo
    connect_timeout_s  for TCP and TLS together
    max_idle           connections kept open that nobody uses, over all destinations
    max_idle_s         how long one is kept unused
    max_age_s          how long one is used before its name is resolved and vetted again
    max_lookups        name look-ups under way at a time: a resolver that hangs must not collect threads
    """

    #: Connections that nobody uses, in the order in which they became idle.
    _idle: list[Wire]

    def __init__(
        self,
        allowed_networks: Sequence[IPNetwork] = (),
        *,
        ca_file: str | os.PathLike[str] | None = None,
        resolve: Resolver = socket.getaddrinfo,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        max_idle: int = 128,
        max_idle_s: float = 60.0,
        max_age_s: float = 300.0,
        max_lookups: int = 32,
        user_agent: str = "Tidings",
    ) -> None:
        self._allowed_networks = tuple(allowed_networks)
        self._tls = _tls_context(ca_file)
        self._resolve = resolve
        self._connect_timeout_s = connect_timeout_s
        self._max_idle = max_idle
        self._max_idle_s = max_idle_s
        self._max_age_s = max_age_s
        self._max_lookups = max_lookups
        self._common = (
            f"User-Agent: {user_agent}\r\nAccept: application/json, application/problem+json\r\n"
            "Accept-Encoding: identity\r\n"
        )
        self._start_empty()
        _clients.add(self)

    def get(
        self,
        url: str,
        *,
        max_bytes: int = MAX_ANSWER_BYTES,
        deadline_s: float = DEADLINE_S,
    ) -> Answer:
        """GET the URL. The body of the answer has at most `max_bytes`. Raises TransportError."""
        return self._call("GET", url, b"", {}, max_bytes, deadline_s)

    def post(
        self,
        url: str,
        body: bytes,
        headers: Headers,
        *,
        deadline_s: float = DEADLINE_S,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        """POST the body. The answer's has at most `max_bytes`. Raises TransportError.

        If a kept-alive connection breaks, the peer may see the request twice. So the body must be safe to
        repeat, as every message with a messageId is; headers that are not, like a signature with a nonce,
        are handed over as a function, which is called for each time that the request is sent.
        """
        return self._call("POST", url, body, headers, max_bytes, deadline_s)

    def close(self) -> None:
        """Close the idle connections. The client can still be used."""
        with self._lock:
            idle = self._idle
            self._idle = []
        for wire in idle:
            wire.close()

    def _call(
        self,
        method: str,
        url: str,
        body: bytes,
        headers: Headers,
        max_bytes: int,
        deadline_s: float,
    ) -> Answer:
        started, deadline = time.monotonic(), Deadline(deadline_s)
        origin, target = _split_url(url)

        def request() -> bytes:
            made = headers() if callable(headers) else headers
            return self._head(method, origin, target, made, len(body)) + body

        first = request()
        wire = self._take(origin) or self._open(origin, deadline)
        try:
            reply = wire.exchange(method, first, deadline, max_bytes)
        except StaleWire:
            # Once only: a new connection is never stale.
            again = request()
            wire = self._open(origin, deadline)
            reply = wire.exchange(method, again, deadline, max_bytes)
        if wire.is_reusable:
            self._put_back(wire)

        duration_ms = round((time.monotonic() - started) * 1000)
        return Answer(*reply, duration_ms)

    def _head(
        self, method: str, origin: Origin, target: str, headers: Mapping[str, str], length: int
    ) -> bytes:
        """The request up to its body. Raises ValueError for a header that could smuggle in another."""
        lines = [f"{name}: {value}" for name, value in headers.items()]
        if not all(map(_HEADER.fullmatch, lines)):
            raise ValueError("a header has characters that headers cannot have")
        if method == "POST":
            lines.append(f"Content-Length: {length}")
        rest = "".join(f"{line}\r\n" for line in lines)
        start = f"{method} {target} HTTP/1.1\r\nHost: {origin.authority}\r\n"
        return f"{start}{self._common}{rest}\r\n".encode("ascii")

    def _open(self, origin: Origin, deadline: Deadline) -> Wire:
        addresses = self._vet(origin, deadline)
        return open_wire(origin, addresses, self._tls, deadline, self._connect_timeout_s)

    def _vet(self, origin: Origin, deadline: Deadline) -> list[Address]:
        """address.vet within the deadline. getaddrinfo knows none, so its thread may be left behind."""
        scheme, host, port = origin
        found: Future[list[Address]] = Future()
        lookups = self._lookups

        def look_up() -> None:
            try:
                found.set_result(vet(host, port, scheme, self._allowed_networks, self._resolve))
            except Exception as error:  # raised again by result(), in the thread that asked
                found.set_exception(error)
            finally:
                lookups.release()

        if not lookups.acquire(timeout=deadline.left()):
            raise NameNotResolved(f"{host} was not looked up: too many look-ups are waiting")
        thread = threading.Thread(target=look_up, name=f"look up {host}", daemon=True)
        try:
            thread.start()
        except BaseException:
            lookups.release()
            raise
        try:
            return found.result(deadline.left())
        except TimeoutError:
            raise NameNotResolved(f"{host} was not found: the resolver does not answer") from None

    def _take(self, origin: Origin) -> Wire | None:
        """An idle connection to the origin that nothing seems wrong with: the one used last, or None."""
        while wire := self._pop_idle(origin):
            if time.monotonic() - wire.opened_at_s <= self._max_age_s and wire.is_quiet():
                return wire
            wire.close()
        return None

    def _pop_idle(self, origin: Origin) -> Wire | None:
        with self._lock:
            for index in reversed(range(len(self._idle))):
                if self._idle[index].origin == origin:
                    return self._idle.pop(index)
        return None

    def _put_back(self, wire: Wire) -> None:
        """Keep the connection for the next call; close those that waited longest if there are too many."""
        oldest = time.monotonic() - self._max_idle_s
        with self._lock:
            self._idle.append(wire)
            surplus = []
            while len(self._idle) > self._max_idle or (self._idle and self._idle[0].idle_since_s < oldest):
                surplus.append(self._idle.pop(0))
        for kept in surplus:
            kept.close()

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._lookups = threading.BoundedSemaphore(self._max_lookups)
        self._idle = []

    def _after_fork(self) -> None:
        """In the child: leave the parent's connections to the parent, and its lock to whoever held it."""
        idle = self._idle
        self._start_empty()
        for wire in idle:
            # Closes the child's copy of the descriptor; nothing is sent, TLS or not.
            wire.close()


@lru_cache(maxsize=16)
def shared_client(allowed_networks: tuple[IPNetwork, ...], ca_file: str | None = None) -> Client:
    """The client of this process for these settings, so that everybody shares its connections."""
    return Client(allowed_networks, ca_file=ca_file)


#: For the child after a fork, which must not speak on its parent's connections.
_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _forget_connections() -> None:
    for client in list(_clients):
        client._after_fork()


os.register_at_fork(after_in_child=_forget_connections)


def _tls_context(ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """TLS 1.2 or later, certificate required and checked for the name."""
    # Not create_default_context: that one writes session keys to a file if SSLKEYLOGFILE says so.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_default_certs()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


@lru_cache(maxsize=1024)
def _split_url(url: str) -> tuple[Origin, str]:
    """The origin and the rest as it will stand in the request line, byte by byte what was signed.

    Raises InvalidOrigin if the URL is not canonical: an origin of parse_origin, then a path in ASCII.
    """
    match = _URL.fullmatch(url)
    if match is None or parse_origin(match[1]) != match[1]:
        raise InvalidOrigin("a URL to call is a canonical origin and a path in ASCII")
    return split_origin(match[1]), match[2]
