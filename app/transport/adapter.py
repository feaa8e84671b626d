"""Adapter: what `requests` sends, sent by our own wires.

    Session.send ─► idle wire to this origin? ──yes─────────────► exchange ─► Response
                          │ no, or it was closed meanwhile           ▲
                          └─► resolve ─► vet every address ─► open ──┘

Kept-alive connections stay pinned to the address that was vetted for them, for
some minutes; every new one is resolved and vetted anew.

It takes the place of the adapter that comes with requests, whose pool rewrites
the target that was signed, gives a timeout to each read instead of the call, and
knows no age of a connection (docs/decisions/0015-our-own-wires-under-requests.md).
"""

import io
import os
import re
import ssl
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPResponse

from app.protocol.origins import Origin
from app.transport.address import Address, IPNetwork, Resolver, parse_origin, split_origin, vet
from app.transport.errors import InvalidOrigin, NameNotResolved
from app.transport.wire import Deadline, Reply, Wire, open_wire

_URL = re.compile(r"([a-z]+://[^/?#]+)(/[!-\"$-~]*)")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [ -~]*")


class Call(PreparedRequest):
    """A request as it will go out, byte by byte, with what requests has no words for.

    Nothing of it is prepared by requests: a URL that was signed must not be put in better order. Raises
    InvalidOrigin for a URL that is not canonical.

    deadline    of the whole call, connecting included
    max_bytes   most that the body of the answer may have
    is_repeat   whether an idle connection failed it already, so that it gets a new one
    """

    def __init__(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        *,
        deadline: Deadline,
        max_bytes: int,
        is_repeat: bool,
    ) -> None:
        super().__init__()
        self.origin, self.target = split_url(url)
        self.method: str = method
        self.url: str = url
        self.headers = CaseInsensitiveDict({"Host": self.origin.authority, **headers})
        self.body: bytes = body
        self.deadline = deadline
        self.max_bytes = max_bytes
        self.is_repeat = is_repeat

    def to_wire(self) -> bytes:
        """The request in HTTP. Raises ValueError for a header that could smuggle in another."""
        lines = [f"{name}: {value}" for name, value in self.headers.items()]
        if not all(map(_HEADER.fullmatch, lines)):
            raise ValueError("a header has characters that headers cannot have")
        head = "\r\n".join([f"{self.method} {self.target} HTTP/1.1", *lines, "", ""])
        return head.encode("ascii") + self.body


class WireAdapter(BaseAdapter):
    """Sends the calls of a session. Threads and forks may share it; parameters as of Client."""

    #: Connections that nobody uses, in the order in which they became idle.
    _idle: list[Wire]

    def __init__(
        self,
        allowed_networks: Sequence[IPNetwork],
        tls: ssl.SSLContext,
        resolve: Resolver,
        *,
        connect_timeout_s: float,
        max_idle: int,
        max_idle_s: float,
        max_age_s: float,
        max_lookups: int,
    ) -> None:
        super().__init__()
        self._allowed_networks = tuple(allowed_networks)
        self._tls = tls
        self._resolve = resolve
        self._connect_timeout_s = connect_timeout_s
        self._max_idle = max_idle
        self._max_idle_s = max_idle_s
        self._max_age_s = max_age_s
        self._max_lookups = max_lookups
        self._start_empty()
        _adapters.add(self)

    def send(self, request: PreparedRequest, *_: Any, **__: Any) -> Response:
        """Send a Call. Its answer is read to the end, and checked, before it is returned.

        What requests lets be chosen besides, like timeout, verify and proxies, is not open to choice.
        Raises TransportError, and StaleWire if an idle connection turned out to be closed.
        """
        if not isinstance(request, Call):
            raise TypeError("only a Call is sent: it has a deadline and a cap")
        data = request.to_wire()
        wire = (None if request.is_repeat else self._take(request.origin)) or self._open(request)
        reply = wire.exchange(request.method, data, request.deadline, request.max_bytes)
        if wire.is_reusable:
            self._put_back(wire)
        return _response(request, reply)

    def close(self) -> None:
        """Close the idle connections. The adapter can still be used."""
        with self._lock:
            idle = self._idle
            self._idle = []
        for wire in idle:
            wire.close()

    def _open(self, call: Call) -> Wire:
        addresses = self._vet(call.origin, call.deadline)
        return open_wire(call.origin, addresses, self._tls, call.deadline, self._connect_timeout_s)

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


#: For the child after a fork, which must not speak on its parent's connections.
_adapters: weakref.WeakSet[WireAdapter] = weakref.WeakSet()


def _forget_connections() -> None:
    for adapter in list(_adapters):
        adapter._after_fork()


os.register_at_fork(after_in_child=_forget_connections)


def _response(call: Call, reply: Reply) -> Response:
    """The reply as requests has it. Nothing in `raw` says how the body could be decoded."""
    response = Response()
    response.request = call
    response.url = call.url
    response.status_code = reply.status
    response.headers = CaseInsensitiveDict(reply.headers)
    response.raw = HTTPResponse(
        io.BytesIO(reply.body), status=reply.status, preload_content=False, decode_content=False
    )
    return response


@lru_cache(maxsize=1024)
def split_url(url: str) -> tuple[Origin, str]:
    """The origin and the rest as it will stand in the request line, byte by byte what was signed.

    Raises InvalidOrigin if the URL is not canonical: an origin of parse_origin, then a path in ASCII.
    """
    match = _URL.fullmatch(url)
    if match is None or parse_origin(match[1]) != match[1]:
        raise InvalidOrigin("a URL to call is a canonical origin and a path in ASCII")
    return split_origin(match[1]), match[2]
