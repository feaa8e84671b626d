"""The wire in front of an instance: an HTTP relay of ours that can do what bad networks and bad peers do.

By default it passes everything on. A *fault* is asked about each request of a peer (`/incoming/…`) and does
something else with it; what people and their software ask for always passes. With several servers behind it
the wire is a balancer, too.
"""

import contextlib
import http.client
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import NamedTuple

from tests.engines import free_port

#: Headers that belong to one hop.
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_ANSWER_WITHIN_S = 60.0


class Answer(NamedTuple):
    """What the instance answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Unreachable(OSError):
    """No server behind the wire took the request, or none answered."""


class Exchange:
    """One request that a fault decides about. Exactly one of `answer`, `answer_part` and `cut` ends it."""

    def __init__(self, handler: "_Handler", body: bytes, rng: Random) -> None:
        self._handler, self._body = handler, body
        self.path = handler.path
        self.rng = rng

    def forward(self) -> Answer:
        """Pass the request on and return what was answered. Raises Unreachable."""
        return self._handler.forward(self._body)

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answer the caller."""
        self._handler.respond(Answer(status, headers, body), body)

    def answer_part(self, answer: Answer) -> None:
        """Begin to answer, and cut the connection in the middle of the body."""
        self._handler.respond(answer, answer.body[: len(answer.body) // 2])
        self.cut()

    def drip(self, answer: Answer, for_s: float) -> None:
        """Answer a byte at a time, for so long; then the rest."""
        self._handler.respond(answer, b"")
        ends_at = time.monotonic() + for_s
        for number in range(len(answer.body)):
            if time.monotonic() > ends_at:
                self._handler.wfile.write(answer.body[number:])
                return
            self._handler.wfile.write(answer.body[number : number + 1])
            self._handler.wfile.flush()
            time.sleep(0.25)

    def cut(self) -> None:
        """Reset the connection."""
        self._handler.cut()


Fault = Callable[[Exchange], None]


class Wire:
    """A port of this machine that leads to one or several servers."""

    def __init__(self, *servers: tuple[str, int], rng: Random | None = None) -> None:
        self.servers = list(servers)
        self.rng = rng or Random(0)
        #: Asked about each request of a peer; None: everything passes.
        self.fault: Fault | None = None
        #: Requests that a fault was asked about.
        self.faulty = 0
        self._turn = itertools.count()
        port = free_port()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.wire = self
        self.url = f"http://127.0.0.1:{port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Take the port away."""
        self._server.shutdown()
        self._server.server_close()

    def in_turn(self) -> list[tuple[str, int]]:
        """The servers, each time beginning with another one."""
        servers = list(self.servers)
        first = next(self._turn) % max(1, len(servers))
        return servers[first:] + servers[:first]


class _Server(ThreadingHTTPServer):
    wire: Wire
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Callers who went away are no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _relay(self) -> None:
        wire = self.server.wire
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = wire.fault if "/incoming/" in self.path else None
        try:
            if fault is None:
                answer = self.forward(body)
                self.respond(answer, answer.body)
            else:
                wire.faulty += 1
                fault(Exchange(self, body, wire.rng))
        except OSError:
            self.cut()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _relay

    def forward(self, body: bytes) -> Answer:
        """Ask the servers in turn.

        The next one is asked if one takes no connection. If a connection breaks before an answer came, only
        what may safely be asked twice goes on to the next: a server may have done it.
        """
        may_repeat = self.command in ("GET", "HEAD") or "Idempotency-Key" in self.headers
        for host, port in self.server.wire.in_turn():
            connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_WITHIN_S)
            try:
                connection.connect()
            except OSError:
                continue
            try:
                return self._ask(connection, body)
            except (OSError, http.client.HTTPException) as error:
                if not may_repeat:
                    raise Unreachable(str(error)) from error
            finally:
                connection.close()
        raise Unreachable("nobody is there")

    def _ask(self, connection: http.client.HTTPConnection, body: bytes) -> Answer:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        if body or self.command == "POST":
            headers["Content-Length"] = str(len(body))
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader("Connection", "close")
        connection.endheaders(body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.getheaders(), answer.read())

    def respond(self, answer: Answer, body: bytes) -> None:
        """Send the head of an answer, and so much of its body."""
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def cut(self) -> None:
        """Reset the connection, so that nothing that was written may still arrive."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""
