"""The client: the one way out.

    get, post ─► Call ─► requests.Session ─► WireAdapter ─► Answer

Of requests it takes the session and the form of requests and answers; what a
connection does is ours (adapter, wire). Nothing of the environment is used: no
proxies, no .netrc, no cookies. Redirects are failures.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from requests import Response, Session

from app.transport import waiting
from app.transport.adapter import Call, WireAdapter
from app.transport.address import IPNetwork, Resolver
from app.transport.wire import Deadline, StaleWire, tls_context

#: Times and sizes of protocol.md §8.
CONNECT_TIMEOUT_S = 5.0
DEADLINE_S = 15.0
MAX_ANSWER_BYTES = 1024 * 1024

#: Headers of a request, or what makes them anew whenever the request is sent.
Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]


class Answer(NamedTuple):
    """What a peer answered. Nothing in it is to be believed before it was parsed and verified."""

    status: int
    headers: dict[str, str]  #: names in lower case; repeated ones joined by ", "
    body: bytes  #: as sent, never decoded
    duration_ms: int  #: the whole call, resolving and connecting included


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
        adapter = WireAdapter(
            allowed_networks,
            tls_context(ca_file),
            resolve,
            connect_timeout_s=connect_timeout_s,
            max_idle=max_idle,
            max_idle_s=max_idle_s,
            max_age_s=max_age_s,
            max_lookups=max_lookups,
        )
        # A session may be shared between threads as long as nobody changes it: answers bring it no cookies.
        self._session = Session()
        self._session.trust_env = False
        for prefix in ("https://", "http://"):
            self._session.mount(prefix, adapter)
        self._common = {
            "User-Agent": user_agent,
            "Accept": "application/json, application/problem+json",
            "Accept-Encoding": "identity",
        }

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
        self._session.close()

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

        def send(is_repeat: bool) -> Response:
            made = {**self._common, **(headers() if callable(headers) else headers)}
            if method == "POST":
                made["Content-Length"] = str(len(body))
            call = Call(method, url, made, body, deadline=deadline, max_bytes=max_bytes, is_repeat=is_repeat)
            # With an empty dict for proxies, requests looks for none.
            return self._session.send(call, stream=True, allow_redirects=False, proxies={})

        with waiting.outside():
            try:
                response = send(is_repeat=False)
            except StaleWire:
                # Once only: a new connection is never stale.
                response = send(is_repeat=True)
            body_of_answer = response.raw.read(decode_content=False)
        duration_ms = round((time.monotonic() - started) * 1000)
        return Answer(response.status_code, dict(response.headers), body_of_answer, duration_ms)


@lru_cache(maxsize=16)
def shared_client(allowed_networks: tuple[IPNetwork, ...], ca_file: str | None = None) -> Client:
    """The client of this process for these settings, so that everybody shares its connections."""
    return Client(allowed_networks, ca_file=ca_file)
