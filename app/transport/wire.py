"""Wire: one connection to one vetted address, under a deadline and a cap.

A timeout of a socket is a timeout per read: a server that sends a byte a second
never runs into it. Here each read and each write gets what is left of the whole
call, and every byte that comes in is counted against what the caller can take,
whether it turns out to be head, body, framing or a flood of 1xx. Bodies are
never inflated.

    tls_context  whom to trust
    open_wire    TCP (and TLS) to the first address that takes us
    exchange     one request out, one answer in; says if the wire can be used again
"""

import http.client
import io
import os
import re
import select
import socket
import ssl
import time
from collections.abc import Sequence
from typing import NamedTuple, cast

from app.protocol.origins import Origin
from app.transport.address import Address
from app.transport.errors import (
    AnswerBroken,
    AnswerTooLarge,
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    RedirectRefused,
    TlsFailed,
    TransportError,
)

#: Most bytes of an answer before its body: status line, headers, and any 1xx in front of them.
MAX_HEAD_BYTES = 64 * 1024
#: A name may have more addresses; after this many failed, the rest is not worth the time.
MAX_ADDRESSES_TRIED = 4

_READ_BUFFER_BYTES = 16 * 1024
_LENGTH = re.compile(r"[0-9]+")


class StaleWire(Exception):
    """A kept-alive connection turned out to be closed: the peer saw nothing, or at least answered nothing."""


class Deadline:
    """The moment at which a call is over, in seconds of the monotonic clock."""

    def __init__(self, seconds: float, what: str = "no complete answer within {} s") -> None:
        self._end = time.monotonic() + seconds
        self._detail = what.format(f"{seconds:g}")

    def left(self) -> float:
        """Seconds that are left, always more than 0. Raises DeadlineExceeded."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise self.exceeded()
        return seconds

    def exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(self._detail)


class Reply(NamedTuple):
    """An answer as it came: header names in lower case, the body never decoded."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A connected socket that belongs to one call at a time."""

    def __init__(self, sock: socket.socket, origin: Origin) -> None:
        self.origin = origin
        self.opened_at_s = self.idle_since_s = time.monotonic()
        #: False as soon as something happened after which the next answer could be somebody else's.
        self.is_reusable = True
        self._sock = sock
        self._is_used = False

    def close(self) -> None:
        self.is_reusable = False
        self._sock.close()

    def is_quiet(self) -> bool:
        """Whether nothing came in since the last answer: the peer neither closed nor talks unasked."""
        # poll, since select fails on descriptors beyond 1023.
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def exchange(self, method: str, request: bytes, deadline: Deadline, max_bytes: int) -> Reply:
        """Send the request and read its answer; closes the wire unless it can be used again.

        Raises StaleWire if the connection was used before and broke before any byte of the answer, and
        AnswerTooLarge, AnswerBroken, ConnectFailed, DeadlineExceeded, RedirectRefused.
        """
        is_first, self._is_used = not self._is_used, True
        self.is_reusable, inflow = False, _Inflow(self._sock, deadline)
        try:
            was_sent = self._send(request, deadline)
            reply, keeps_alive = _read_reply(inflow, method, max_bytes)
            self.is_reusable = was_sent and keeps_alive
        except (OSError, http.client.HTTPException, ValueError) as error:
            if inflow.received == 0 and not is_first:
                raise StaleWire from error
            raise _broken(error, self.origin, inflow.received) from error
        finally:
            if not self.is_reusable:
                self.close()
        self.idle_since_s = time.monotonic()
        return reply

    def _send(self, request: bytes, deadline: Deadline) -> bool:
        """Send all of it, or as much as the peer wants: it may refuse a body in the middle, by an answer."""
        rest = memoryview(request)
        try:
            while rest:
                self._sock.settimeout(deadline.left())
                rest = rest[self._sock.send(rest) :]
        except TimeoutError:
            raise deadline.exceeded() from None
        except OSError:
            return False
        return True


class _Inflow(io.RawIOBase):
    """What comes in, read within the deadline and counted."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self.received = 0
        self._sock = sock
        self._deadline = deadline
        self._allowed = MAX_HEAD_BYTES

    def allow(self, more_bytes: int) -> None:
        """Let this many bytes more come in."""
        self._allowed += more_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Raises DeadlineExceeded, AnswerTooLarge, OSError."""
        self._sock.settimeout(self._deadline.left())
        try:
            count = self._sock.recv_into(buffer)
        except TimeoutError:
            raise self._deadline.exceeded() from None
        self.received += count
        if self.received > self._allowed:
            raise AnswerTooLarge("the answer is larger than it may be")
        return count

    def tell(self) -> int:
        return self.received

    def makefile(self, mode: str) -> io.BufferedReader:
        """As a socket does it, but once. Closing what is returned closes nothing."""
        self._stream = _Stream(self, _READ_BUFFER_BYTES)
        return self._stream

    def is_used_up(self) -> bool:
        """Whether the reader of the stream took all that came in."""
        return self._stream.tell() == self.received


class _Stream(io.BufferedReader):
    """Stays open when HTTPResponse is done with it, so that bytes behind the answer do not go unseen."""

    def close(self) -> None:
        pass


def tls_context(ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """TLS 1.2 or later, certificate required and checked for the name."""
    # Not create_default_context: that one writes session keys to a file if SSLKEYLOGFILE says so.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_default_certs()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


def open_wire(
    origin: Origin,
    addresses: Sequence[Address],
    tls: ssl.SSLContext,
    deadline: Deadline,
    connect_timeout_s: float,
) -> Wire:
    """Connect to the first of the vetted addresses that takes us; with https, only for the origin's name.

    `connect_timeout_s` is for all of it, TLS included, and shared fairly: one address that swallows
    packets leaves time for the next. Raises ConnectFailed, TlsFailed, DeadlineExceeded.
    """
    connecting = Deadline(min(connect_timeout_s, deadline.left()), f"no connection to {origin} within {{}} s")
    sock = _connect_to_any(addresses[:MAX_ADDRESSES_TRIED], connecting)
    if origin.scheme == "https":
        sock = _start_tls(sock, origin.host, tls, connecting)
    return Wire(sock, origin)


def _connect_to_any(addresses: Sequence[Address], deadline: Deadline) -> socket.socket:
    failure: TransportError | None = None
    for tried, address in enumerate(addresses):
        try:
            return _connect(address, deadline.left() / (len(addresses) - tried))
        except TimeoutError:
            failure = deadline.exceeded()
        except ConnectionRefusedError:
            failure = ConnectionRefused(f"nobody listens at {address}")
        except OSError as error:
            failure = ConnectFailed(f"no connection to {address}: {error.strerror or error}")
    raise failure or ConnectFailed("there is no address to connect to")


def _connect(address: Address, timeout_s: float) -> socket.socket:
    family = socket.AF_INET6 if address.ip.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        # An address in digits: nobody is asked a second time what the name means.
        sock.connect((str(address.ip), address.port))
        # With Nagle's algorithm a request in two packets may wait 40 ms for an acknowledgment.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _start_tls(sock: socket.socket, host: str, tls: ssl.SSLContext, deadline: Deadline) -> ssl.SSLSocket:
    """TLS with SNI and the certificate checked for `host`, whatever address it has."""
    try:
        sock.settimeout(deadline.left())
        # An end without close_notify could be somebody cutting the answer short: it is an error, not an end.
        return tls.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)
    except BaseException as error:
        sock.close()
        if isinstance(error, TimeoutError):
            raise deadline.exceeded() from None
        if isinstance(error, ssl.SSLCertVerificationError):
            raise TlsFailed(f"the certificate of {host} is not trusted: {error.verify_message}") from error
        if isinstance(error, OSError):
            raise TlsFailed(f"no TLS with {host}: {error.strerror or error}") from error
        raise


def _read_reply(inflow: _Inflow, method: str, max_bytes: int) -> tuple[Reply, bool]:
    """The answer, and whether another may follow on the same connection."""
    # HTTPResponse wants nothing of its socket but makefile.
    response = http.client.HTTPResponse(cast(socket.socket, inflow), method=method)
    response.begin()
    while 100 <= response.status < 200:
        _skip_informational(response)
    headers = _headers_of(response)
    _refuse_unusable(response, headers)
    # Chunks bring framing of their own; who sends more frame than content is as good as endless.
    inflow.allow(2 * max_bytes)
    body = _read_body(response, max_bytes)
    return Reply(response.status, headers, body), not response.will_close and inflow.is_used_up()


def _skip_informational(response: http.client.HTTPResponse) -> None:
    """Go on to the answer behind a 1xx (RFC 9110 §15.2). http.client skips 100 alone."""
    if response.status == 101:
        raise AnswerBroken("the peer switched protocols, which nobody asked for", status=101)
    response.headers = None  # type: ignore[assignment]  # what makes begin() begin again
    response.begin()


def _headers_of(response: http.client.HTTPResponse) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        name, value = name.lower(), str(value)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _refuse_unusable(response: http.client.HTTPResponse, headers: dict[str, str]) -> None:
    """Raise RedirectRefused, or AnswerBroken for a body that http.client would take for something else."""
    status = response.status
    if response.headers.defects or not _LENGTH.fullmatch(headers.get("content-length", "0")):
        raise AnswerBroken("the head of the answer is malformed", status=status)
    if 300 <= status < 400:
        target = headers.get("location", "nowhere")
        raise RedirectRefused(f"answered {status} and points to {target}", status=status)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    framing = headers.get("transfer-encoding", "chunked").strip().lower()
    if encoding != "identity" or framing != "chunked":
        raise AnswerBroken(f"the answer is encoded ({encoding}, {framing}), unasked", status=status)


def _read_body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    """The body as sent, without the framing. Raises AnswerTooLarge, AnswerBroken."""
    status = response.status
    is_announced = response.length is not None and response.length > max_bytes
    # One byte more than may be, so that what is too large is seen to be.
    body = b"" if is_announced else response.read(max_bytes + 1)
    if is_announced or len(body) > max_bytes:
        raise AnswerTooLarge(f"the body is larger than {max_bytes} bytes", status=status)
    if response.length:
        raise AnswerBroken(f"the body ended {response.length} bytes too early", status=status)
    return body


def _broken(error: Exception, origin: Origin, received: int) -> TransportError:
    """What an error of the socket or of the parser means to the caller."""
    if received == 0:
        return ConnectFailed(f"{origin} closed the connection without an answer")
    if isinstance(error, OSError | http.client.IncompleteRead):
        return AnswerBroken(f"{origin} closed the connection in the middle of the answer")
    return AnswerBroken(f"{origin} does not answer in HTTP: {error!r}")
