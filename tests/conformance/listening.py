"""The server of a foreign peer: threads on loopback that can be cut."""

from __future__ import annotations

import contextlib
import http.server
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.conformance.exchanges import Received, Reply


class Server(http.server.ThreadingHTTPServer):
    """Answers each request with what `handle` makes of it."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handle: Callable[[Received], Reply]) -> None:
        super().__init__(address, _Handler)
        self.handle_received = handle
        self.open_sockets: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open_sockets.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """End every open connection, also one that hangs."""
        for one in list(self.open_sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, raw: bytes) -> None:
        parts = urlsplit(self.path)
        request = Received(
            self.command, self.path, parts.path, parse_qs(parts.query), list(self.headers.items()), raw
        )
        given = self.server.handle_received(request)
        if given.hangs or given.closes:
            self.close_connection = True
            return
        self.send_response(given.status)
        for name, value in given.headers:
            self.send_header(name, value)
        if given.status != 204:
            self.send_header("Content-Length", str(len(given.body)))
        self.end_headers()
        self.wfile.write(given.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the peer keeps every request."""
